"""What `train.tokens_per_step` and `train.seq_len` say: the batch of a step, one for the run or one for each stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from est_cli.config.setting import Items
from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.est.flops import of_each_stage
from est_cli.est.schedule import SamplingScheduler

if TYPE_CHECKING:
    from est_cli.config.training import TrainConfig

KEYS = ("tokens_per_step", "seq_len")
COUNTS = Items(
    lambda count: isinstance(count, int) and not isinstance(count, bool),
    "an integer, or a list with one for each stage, such as [2048,4096,4096]",
)
"""What these settings may hold."""


def batch_schedule(train: TrainConfig, scheduler: SamplingScheduler) -> BatchSchedule:
    """Of checked settings. Raises ValueError where there are not as many entries as stages."""
    tokens, seq_lens = (_checked(key, getattr(train, key), len(scheduler.stages)) for key in KEYS)
    stages = [StepBatch(count // seq_len, seq_len) for count, seq_len in zip(tokens, seq_lens, strict=True)]
    return BatchSchedule.of(scheduler, stages)


def largest_step(train: TrainConfig) -> int:
    """Tokens of the run's largest step."""
    return max(_entries(train.tokens_per_step), default=0)


def longest_sequence(train: TrainConfig) -> int:
    """Tokens of the run's longest sequence, which those of validation have too."""
    return max(_entries(train.seq_len), default=0)


def varies(train: TrainConfig) -> bool:
    """Whether one of the settings has an entry for each stage."""
    return any(isinstance(getattr(train, key), list) for key in KEYS)


def batch_problems(train: TrainConfig) -> Iterator[str]:
    """What does not go together, whatever the stages are."""
    tokens, seq_lens = _entries(train.tokens_per_step), _entries(train.seq_len)
    for key, entries in zip(KEYS, (tokens, seq_lens), strict=True):
        if not entries:
            yield f"train.{key}: [] has no entry; give a number, or one for each stage"
    if not tokens or not seq_lens or min(seq_lens) < 2:
        return
    longest = max(seq_lens)
    yield from (
        f"train.tokens_per_step: {count} is not a multiple of train.seq_len={longest}; the nearest is "
        f"train.tokens_per_step={max(1, round(count / longest)) * longest}"
        for count in tokens
        if count % longest
    )
    yield from (
        f"train.seq_len: {seq_len} does not divide {longest}, the longest sequence of the run, into which text is cut"
        for seq_len in seq_lens
        if longest % seq_len
    )


def share_problems(train: TrainConfig, processes: int) -> Iterator[str]:
    """Steps whose sequences do not divide among so many processes; of settings in their ranges."""
    tokens, seq_lens = _entries(train.tokens_per_step), _entries(train.seq_len)
    if not tokens or not seq_lens or min(seq_lens) < 2 or processes < 1:
        return
    stages = max(len(tokens), len(seq_lens))
    pairs = zip(*(entries * (stages if len(entries) == 1 else 1) for entries in (tokens, seq_lens)), strict=False)
    for sequences, seq_len in sorted({(count // seq_len, seq_len) for count, seq_len in pairs}):
        if sequences % processes:
            yield (
                f"launch.num_processes: the {sequences} sequences of a step (train.tokens_per_step) do not divide "
                f"among {processes} processes; use launch.num_processes={_below(processes, sequences)}, or "
                f"train.tokens_per_step={-(-sequences // processes) * processes * seq_len}"
            )


def _below(processes: int, sequences: int) -> int:
    """The largest smaller number of processes among which so many sequences divide."""
    return next(count for count in range(min(processes, sequences + 1) - 1, 0, -1) if sequences % count == 0)


def stage_problems(train: TrainConfig, stages: int) -> Iterator[str]:
    """Lists that do not have an entry for each of so many stages."""
    for key in KEYS:
        try:
            _checked(key, getattr(train, key), stages)
        except ValueError as error:
            yield str(error)


def _entries(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]


def _checked(key: str, value: Any, stages: int) -> list[int]:
    entries = [*of_each_stage(value, stages)]
    if len(entries) != stages:
        has = f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'}"
        raise ValueError(f"train.{key}: {str(value)[:80]} has {has}; this run needs {stages}, one for each stage")
    return entries


def describe_batch(batch: BatchSchedule) -> str:
    """`4,096 tokens = 16 sequences of 256`; where stages differ `2,048 / 4,096 tokens = 8 / 16 sequences of 256`."""

    def told(numbers: Iterable[int]) -> str:
        found = [*numbers]
        return " / ".join(f"{number:,}" for number in (found if len(set(found)) > 1 else found[:1]))

    steps = [step for count, step in batch.spans(batch.max_steps) if count]
    sequences, seq_len = told(step.sequences for step in steps), told(step.seq_len for step in steps)
    return f"{told(step.tokens for step in steps)} tokens = {sequences} sequence{'s' * (sequences != '1')} of {seq_len}"
