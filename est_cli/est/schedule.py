"""Sampling rates, stages and the sampling scheduler: pure functions of the step (paper, section 3). No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class SamplingRates:
    """The shares that run: `p_h` of the attention heads, `p_m` of the MLP columns, `p_l` of the layers; each in (0, 1].

    These are the paper's p_H, p_M and p_L: rates of what is kept, never of what is dropped.
    """

    p_h: float = 1.0
    p_m: float = 1.0
    p_l: float = 1.0

    def __post_init__(self) -> None:
        for name in ("p_h", "p_m", "p_l"):
            rate = getattr(self, name)
            if not 0.0 < rate <= 1.0:
                raise ValueError(f"{name}: {rate} is not a sampling rate; it must be above 0 and at most 1")

    @property
    def full(self) -> bool:
        return self.p_h == self.p_m == self.p_l == 1.0


@dataclass(frozen=True)
class Stage:
    """Steps up to (not including) `until_step` run at `rates`."""

    until_step: int
    rates: SamplingRates


@dataclass(frozen=True)
class SamplingScheduler:
    """The stages of a run in order. Steps count from 0, stages from 1. A stage may be empty (same `until_step`)."""

    name: str
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        ends = [0, *(stage.until_step for stage in self.stages)]
        if len(ends) < 2 or ends != sorted(ends):
            raise ValueError(f"stage: boundaries must not decrease, got {ends[1:]}")

    @property
    def max_steps(self) -> int:
        return self.stages[-1].until_step

    def stage_at(self, step: int) -> int:
        """Number of the stage that step `step` (0-based) belongs to."""
        if not 0 <= step < self.max_steps:
            raise ValueError(f"step {step} is outside this run of {self.max_steps} steps")
        return next(number for number, stage in enumerate(self.stages, start=1) if step < stage.until_step)

    def rates_at(self, step: int) -> SamplingRates:
        """(p_H, p_M, p_L) of step `step` (0-based)."""
        return self.stages[self.stage_at(step) - 1].rates

    def stage_steps(self) -> list[int]:
        """How many steps each stage has, empty stages included."""
        ends = [0, *(stage.until_step for stage in self.stages)]
        return [end - begin for begin, end in pairwise(ends)]

    def transitions(self) -> list[int]:
        """The steps (0-based) at which a new stage begins, without the first step of the run."""
        begins = {0 if number == 1 else self.stages[number - 2].until_step for number in self.occupied()}
        return sorted(begins - {0})

    def occupied(self) -> list[int]:
        """Numbers of the stages that have at least one step."""
        return [number for number, steps in enumerate(self.stage_steps(), start=1) if steps]


def boundary_step(value: int | float, max_steps: int) -> int:
    """The step that a boundary means: an int is a step, a float the nearest step to that fraction of the run.

    So `1` is step 1 and `1.0` the end. Raises ValueError outside the run.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is neither a step (int) nor a fraction (float)")
    if isinstance(value, float):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{value} is not a fraction of the run; a float must be in [0, 1], an int is a step")
        return math.floor(value * max_steps + 0.5)
    if not 0 <= value <= max_steps:
        raise ValueError(f"step {value} is outside the run of {max_steps} steps")
    return value


def three_stage(max_steps: int, t1: int | float, t2: int | float, rates: SamplingRates) -> SamplingScheduler:
    """The paper's practical scheduler: heads, columns and layers sampled; then all layers; then everything.

    Stage 1 ends before step t1, stage 2 before t2 (see `boundary_step`). Raises ValueError when t1 > t2.
    """
    first, second = boundary_step(t1, max_steps), boundary_step(t2, max_steps)
    if first > second:
        raise ValueError(f"stage.t1: step {first} lies after stage.t2 (step {second}); t1 <= t2 is needed")
    return SamplingScheduler(
        "three_stage",
        (
            Stage(first, rates),
            Stage(second, SamplingRates(rates.p_h, rates.p_m, 1.0)),
            Stage(max_steps, SamplingRates()),
        ),
    )


def dense(max_steps: int) -> SamplingScheduler:
    """Ordinary training: one stage, the complete model."""
    return SamplingScheduler("dense", (Stage(max_steps, SamplingRates()),))
