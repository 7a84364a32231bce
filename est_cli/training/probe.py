"""How long a step of each stage takes: the run itself for some steps, on random tokens, its folder thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from est_cli.config import OptimConfig, RunConfig, SamplingConfig, StageConfig, WandbMode
from est_cli.config.batch import largest_step
from est_cli.config.resolve import Resolved, resolve
from est_cli.data import Corpus
from est_cli.data.tokens.stream import Tokens, TokenSpan, TokenStream
from est_cli.distributed import Group
from est_cli.distributed.hardware import runs_ahead
from est_cli.est import ModelSpec
from est_cli.storage.run_dir import RunDir
from est_cli.training.build import build
from est_cli.training.parts import RunInputs
from est_cli.training.run import Run
from est_cli.training.start import Start
from est_cli.training.step import train_step

MEASURED = 3
WARM_UP, WARM_UP_AHEAD = 1, 3
"""Steps before those that count: the first one allocates; on a GPU the first ones compile."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, over those that were measured."""

    median: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class StepSeconds:
    """Of a step of each stage."""

    stages: dict[int, StepTime]
    """By the number of the stage."""
    complete: StepTime
    """Of the complete model."""


def step_seconds(config: RunConfig) -> StepSeconds:
    """Measure a checked configuration of one process.

    Micro-batches, precision, compilation and optimizer are those of the run. Random tokens cost what others cost.
    Raises what build() raises.
    """
    with TemporaryDirectory(prefix="est-plan-") as folder:
        stages = _seconds(config, Path(folder))
        scheduler = resolve(config).scheduler
        full = [number for number in stages if scheduler.stages[number - 1].rates.full]
        complete = stages[full[-1]] if full else _seconds(_dense(config), Path(folder))[1]
    return StepSeconds(stages, complete)


@contextmanager
def on_random_tokens(config: RunConfig, folder: Path) -> Iterator[Run]:
    """The run of a checked configuration, ready for train_step(), on random tokens; `folder` is for what it writes."""
    config = deepcopy(config)
    config.tracking.wandb, config.train.profile_step = WandbMode.off, None
    with build(Start.of(config, None), _thrown_away(folder)) as run:
        yield run


def _seconds(config: RunConfig, folder: Path) -> dict[int, StepTime]:
    with on_random_tokens(config, folder) as run:
        return {number: _step_time(run, number) for number in run.scheduler.occupied()}


def _step_time(run: Run, number: int) -> StepTime:
    """In the middle of the stage: the beginning of one whose rates change says little of it."""
    end, length = run.scheduler.stages[number - 1].until_step, run.scheduler.stage_steps()[number - 1]
    warm_up = WARM_UP_AHEAD if runs_ahead(run.accelerator.device) else WARM_UP
    seconds = []
    for count in range(warm_up + MEASURED):
        step = end - length + (length // 2 + count) % length
        begin = time.perf_counter()
        train_step(run, step).read()
        seconds.append(time.perf_counter() - begin)
    measured = seconds[warm_up:]
    return StepTime(median(measured), min(measured), max(measured))


def _dense(config: RunConfig) -> RunConfig:
    """The same run of the complete model."""
    config = deepcopy(config)
    config.scheduler.name, config.stage, config.sampling = "dense", StageConfig(), SamplingConfig()
    config.optim.unsampled_rows = OptimConfig().unsampled_rows
    config.optim.skipped_layers = OptimConfig().skipped_layers
    if isinstance(config.train.micro_batch, list):
        config.train.micro_batch = config.train.micro_batch[-1]
    return config


def _thrown_away(folder: Path) -> RunInputs:
    @contextmanager
    def owned(start: Start, group: Group) -> Iterator[RunDir]:
        start.config.run_name = "probe"
        yield RunDir(folder)

    return RunInputs(lambda run, spec, verify: _random_corpus(run, spec, folder), owned, quiet=True)


def _random_corpus(run: Resolved, spec: ModelSpec, folder: Path) -> Corpus:
    """As many tokens as a step reads."""
    path, count = folder / "tokens.bin", largest_step(run.config.train)
    np.random.default_rng(run.config.seed).integers(spec.vocab_size, size=count, dtype="<u4").tofile(path)
    tokens = Tokens((TokenStream([TokenSpan(path, "<u4", 0, count)]),))
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({end: 0}, end)), eos_token=end)
    return Corpus(tokens, tokens, (), tokenizer, data_hash="", tokenizer_hash="", folders=())
