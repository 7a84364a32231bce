"""How many sequences of which length a step trains, by stage: pure functions of the step. No torch.

Text is cut into blocks as long as the run's longest sequences. A stage of shorter ones cuts each of its blocks further,
so that what a step reads is a number of whole blocks, and a run may change the length without reading text twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd

from .schedule import SamplingScheduler


@dataclass(frozen=True)
class StepBatch:
    """What one step trains, over all processes and micro-batches."""

    sequences: int
    seq_len: int
    """Tokens of each."""

    @property
    def tokens(self) -> int:
        return self.sequences * self.seq_len

    @property
    def targets(self) -> int:
        """Predictions that the step's loss is the mean of."""
        return self.sequences * (self.seq_len - 1)


@dataclass(frozen=True)
class BatchSchedule:
    """The batch of each step of a run. Steps count from 0, stages from 1."""

    ends: tuple[int, ...]
    """The step that each stage ends before."""
    stages: tuple[StepBatch, ...]
    """By stage."""

    def __post_init__(self) -> None:
        assert len(self.ends) == len(self.stages) and all(batch.tokens % self.block == 0 for batch in self.stages)

    @classmethod
    def of(cls, scheduler: SamplingScheduler, stages: Sequence[StepBatch]) -> BatchSchedule:
        return cls(tuple(stage.until_step for stage in scheduler.stages), tuple(stages))

    @cached_property
    def block(self) -> int:
        """Tokens of a block of the text: the longest sequence of the run."""
        return max(batch.seq_len for batch in self.stages)

    @property
    def max_steps(self) -> int:
        return self.ends[-1]

    def of_stage(self, number: int) -> StepBatch:
        return self.stages[number - 1]

    def stage_at(self, step: int) -> int:
        """The number of the stage of step `step`; behind the last one as it is there."""
        return 1 + min(bisect_left(self.ends, step + 1), len(self.stages) - 1)

    def at(self, step: int) -> StepBatch:
        """Of step `step`."""
        return self.of_stage(self.stage_at(step))

    def tokens_before(self, step: int) -> int:
        """Tokens of the first `step` steps."""
        return sum(steps * batch.tokens for steps, batch in self.spans(step))

    def blocks_before(self, step: int) -> int:
        """Blocks of the first `step` steps: the number of the first one that step `step` reads."""
        return self.tokens_before(step) // self.block

    def blocks_at(self, step: int) -> int:
        """Blocks that step `step` reads."""
        return self.at(step).tokens // self.block

    def step_after(self, tokens: int) -> int:
        """The number of steps that read at least so many `tokens`; one more than the run has where it never does."""
        return bisect_left(range(self.max_steps + 1), tokens, key=self.tokens_before)

    @cached_property
    def unit(self) -> int:
        """The largest number of tokens that every step is a multiple of: where all are equal, a step."""
        return gcd(*(batch.tokens for batch in self.stages))

    def clock(self, step: int) -> int:
        """How far the run is before step `step`, in units of tokens: where all steps are equal, `step`."""
        return self.tokens_before(step) // self.unit

    def spans(self, end: int) -> list[tuple[int, StepBatch]]:
        """The first `end` steps as (number of steps, their batch), stage by stage."""
        edges = [min(edge, end) for edge in (0, *self.ends)]
        return [(after - before, batch) for (before, after), batch in zip(pairwise(edges), self.stages, strict=True)]
