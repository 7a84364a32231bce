"""One analysis from its checked configuration to its folder, a new one: analysis.json, its text, pictures."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.nn.attention import SDPBackend, sdpa_kernel

from est_cli.analysis.analysis_job import AnalysisJob, OpenedCheckpoint, Outcome, load_text
from est_cli.analysis.check_analysis import (
    CONTINUES,
    LESS_MEMORY,
    default_folder,
    is_used,
    requested_checkpoints,
    run_of_prices,
    taken,
)
from est_cli.analysis.curvature import PRODUCT_COST, hessian_trace
from est_cli.analysis.display import print_result
from est_cli.analysis.draws import cost_of_draws, draws
from est_cli.analysis.landscape import compare, flatness
from est_cli.analysis.prices import cost_of_prices, prices
from est_cli.analysis.structural_dropout import family_spec, kinds_of, rates_of, spec_for, structural_dropout
from est_cli.common.errors import RunLockedError, reason
from est_cli.common.rank import rank_of_environment
from est_cli.config import Analysis, AnalyzeConfig, Precision
from est_cli.config.schema import leaves_of, plain, tracked_settings
from est_cli.config.stored import stored_config
from est_cli.distributed.workers import meet, memory_enough
from est_cli.models.pretrained import open_checkpoint
from est_cli.reporting.drawing import png_of
from est_cli.storage import disk
from est_cli.storage.digest import fingerprint
from est_cli.storage.run_dir import RunDir, lock, model_folder, remove_unused, write_result
from est_cli.storage.store import clean_leftovers
from est_cli.storage.versions import git_commit, versions
from est_cli.tracking import Ending, Job, WandbSink, chosen_run_id, new_run_id
from est_cli.tracking.trained_run import training_run
from est_cli.tracking.work_progress import progress

log = logging.getLogger(__name__)

RESULT, TOKENS = "analysis.json", "tokens.npy"
MAX_BYTES = 1 << 26
ANALYSES: dict[Analysis, Callable[[AnalysisJob], Outcome]] = {
    Analysis.hessian_trace: hessian_trace,
    Analysis.flatness: flatness,
    Analysis.compare: compare,
    Analysis.structural_dropout: structural_dropout,
    Analysis.draws: draws,
    Analysis.prices: prices,
}


def analyse(config: AnalyzeConfig) -> None:
    """Run what a checked configuration asks for, and print and keep the results. Any EstError may come out of it.

    Under a launcher every process calls it; the first one writes and prints.
    """
    begin = time.monotonic()
    checkpoints = tuple(
        OpenedCheckpoint(open_checkpoint("checkpoint", name, config.tokenizer), step)
        for step, name in requested_checkpoints(config)
    )
    baseline = None if config.baseline is None else open_checkpoint("baseline", config.baseline, config.tokenizer)
    first = checkpoints[0].checkpoint
    if config.analysis is Analysis.structural_dropout:
        spec_for(first, config)
    if config.analysis in (Analysis.draws, Analysis.prices):
        family_spec(first)
    trains = config.analysis is Analysis.prices
    if trains:
        config = replace(config, dataset=stored_config(run_of_prices(config)).dataset)
    text = load_text(config, first, rank_of_environment())  # before the processes wait for each other
    new = new_folder(config)
    with meet(config.launch, Precision.fp32, CONTINUES) as processes, processes.first_only(new) as folder:
        digest = fingerprint(plain(config), text.digest, [one.checkpoint.name for one in checkpoints])
        processes.group.require_same(int(digest[:15], 16), "its settings, text or checkpoint are not")
        with (
            progress(_cost(config, len(text.batches), checkpoints), not processes.first) as shown,
            memory_enough(LESS_MEMORY),
            # It has derivatives of derivatives, where a model calls torch's kernels itself.
            nullcontext() if trains else sdpa_kernel(SDPBackend.MATH),
        ):
            job = AnalysisJob(config, checkpoints, baseline, text, processes, shown)
            result, figures = ANALYSES[config.analysis](job)
        if folder is None:
            return
        content = {
            "analysis": config.analysis.value,
            "result": result,
            "text": text.to_json(),
            "settings": plain(config),
            "seconds": round(time.monotonic() - begin, 3),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        write_result(folder / RESULT, content, MAX_BYTES)
        disk.replace_file(folder / TOKENS, text.npy())
        try:
            print_result(content, folder)
        finally:
            draw(folder, figures)
        track(config, folder, result, [folder / name for name in figures])


def _cost(config: AnalyzeConfig, batches: int, checkpoints: Sequence[OpenedCheckpoint]) -> float:
    """What the cells of the analysis cost, in forward passes of a batch."""
    settings = config.analyze
    trace = PRODUCT_COST * settings.probes * batches
    if config.analysis is Analysis.hessian_trace:
        return len(checkpoints) * trace
    if config.analysis is Analysis.flatness:
        return settings.directions * settings.points * batches
    if config.analysis is Analysis.compare:
        return settings.points * batches + (2 * trace if settings.trace else 0)
    if config.analysis is Analysis.draws:
        return cost_of_draws(config, family_spec(checkpoints[0].checkpoint), batches)
    if config.analysis is Analysis.prices:
        return cost_of_prices(config, family_spec(checkpoints[0].checkpoint), len(checkpoints))
    kinds = len(kinds_of(rates_of(config)))
    return kinds * settings.draws * batches * (1 + PRODUCT_COST) + 2 * settings.draws


def track(config: AnalyzeConfig, folder: Path, result: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """A run in W&B, of the result alone, beside the one whose model it is of."""
    trained = training_run(model_folder(str(config.checkpoint)))
    run_id = chosen_run_id(config.tracking, None, os.environ) or new_run_id()
    job = Job(folder.name, run_id, folder, None, "analyze", None if trained is None else trained["sweep"])
    facts = {"trained_as": trained, "versions": versions()}
    sink = WandbSink(config.tracking, job, tracked_settings(config) | {"est": facts}, warn=log.warning)
    numbers = {f"analysis/{key}": value for key, value in leaves_of(dict(result)).items()}
    sink.finish(Ending(numbers, {f"plots/{path.stem}": path for path in pictures if path.exists()}))


@contextmanager
def new_folder(config: AnalyzeConfig) -> Iterator[Path]:
    """Made and locked here, and taken away again where nothing was written into it; one that a kill left is taken.

    ConfigError if `run_name` is taken, RunLockedError if another analysis is at work under that name.
    """
    with ExitStack() as stack:
        yield _claimed(config, stack)


def _claimed(config: AnalyzeConfig, stack: ExitStack) -> Path:
    if config.run_name is not None:
        folder = config.paths.outputs_folder / config.run_name
        if not _claim(folder, stack):
            raise taken(folder)
        return folder
    for number in itertools.count(1):
        folder = default_folder(config, number)
        with suppress(RunLockedError):
            if _claim(folder, stack):
                return folder
    raise AssertionError("there is always a number")


def _claim(folder: Path, stack: ExitStack) -> bool:
    """Own the folder until the stack is closed. False where something was written into it."""
    if is_used(folder):
        return False
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(lock(RunDir(folder)))
    clean_leftovers(folder)
    stack.callback(remove_unused, folder)
    return not is_used(folder)


def draw(folder: Path, figures: Mapping[str, Callable[[], Figure]]) -> None:
    """The pictures. Whatever goes wrong with one takes nothing from the numbers."""
    for name, figure in figures.items():
        try:
            disk.replace_file(folder / name, png_of(figure()))
        except Exception as error:  # of the disk, or whatever matplotlib raises
            log.warning("%s: not drawn (%s)", folder / name, reason(error))
