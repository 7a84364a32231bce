"""One analysis from its checked configuration to its folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from est_cli.analysis.curvature import PRODUCT_COST
from est_cli.analysis.dropout import kinds_of
from est_cli.analysis.folder import new_folder, write_results
from est_cli.analysis.job import Asked, Job, Outcome
from est_cli.analysis.preflight import CONTINUES, LESS_MEMORY, checkpoints_asked
from est_cli.analysis.sampling import rates_of, spec_for, structural_dropout
from est_cli.analysis.surface import compare, flatness
from est_cli.analysis.table import print_result
from est_cli.analysis.text import load_text
from est_cli.analysis.trace import hessian_trace
from est_cli.common.rank import rank_of_environment
from est_cli.config import Analysis, AnalyzeConfig, Precision
from est_cli.config.schema import plain
from est_cli.distributed.workers import Processes, meet, memory_enough
from est_cli.models.pretrained import open_checkpoint
from est_cli.storage.digest import fingerprint
from est_cli.storage.versions import git_commit, versions
from est_cli.tracking.work_progress import progress

ANALYSES: dict[Analysis, Callable[[Job], Outcome]] = {
    Analysis.hessian_trace: hessian_trace,
    Analysis.flatness: flatness,
    Analysis.compare: compare,
    Analysis.structural_dropout: structural_dropout,
}


def analyse(config: AnalyzeConfig) -> None:
    """Run what a checked configuration asks for, and print and keep the results. Any EstError may come out of it.

    Under a launcher every process calls it; the first one writes and prints.
    """
    begin = time.monotonic()
    asked = tuple(
        Asked(open_checkpoint("checkpoint", name, config.tokenizer), step) for step, name in checkpoints_asked(config)
    )
    baseline = None if config.baseline is None else open_checkpoint("baseline", config.baseline, config.tokenizer)
    if config.analysis is Analysis.structural_dropout:
        spec_for(asked[0].checkpoint, config)
    text = load_text(config, asked[0].checkpoint, rank_of_environment())  # before the processes wait for each other
    with meet(config.launch, Precision.fp32, CONTINUES) as processes, _own_folder(config, processes) as folder:
        digest = fingerprint(plain(config), text.digest, [one.checkpoint.name for one in asked])
        processes.group.require_same(int(digest[:15], 16), "its settings, text or checkpoint are not")
        with (
            progress(_cost(config, len(text.batches), len(asked)), not processes.first) as shown,
            memory_enough(LESS_MEMORY),
        ):
            job = Job(config, asked, baseline, text, processes, shown)
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
        write_results(folder, content, figures)
        print_result(content, folder)


@contextmanager
def _own_folder(config: AnalyzeConfig, processes: Processes) -> Iterator[Path | None]:
    """The new folder, in the first process; None in the others."""
    if not processes.first:
        yield None
        return
    with new_folder(config) as folder:
        yield folder


def _cost(config: AnalyzeConfig, batches: int, checkpoints: int) -> float:
    """What the cells of the analysis cost, in forward passes of a batch."""
    settings = config.analyze
    trace = PRODUCT_COST * settings.probes * batches
    if config.analysis is Analysis.hessian_trace:
        return checkpoints * trace
    if config.analysis is Analysis.flatness:
        return settings.directions * settings.points * batches
    if config.analysis is Analysis.compare:
        return settings.points * batches + (2 * trace if settings.trace else 0)
    kinds = len(kinds_of(rates_of(config)))
    return kinds * settings.draws * batches * (1 + PRODUCT_COST) + 2 * settings.draws
