"""How long the rest of a run takes, when its stages differ in cost: a pure function of what was measured so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class StagePlan:
    """One stage of a run, as planned."""

    number: int
    """1, 2, 3 as in the paper."""
    until_step: int
    """How many optimizer steps of the run are done when the stage ends."""
    flops_per_step: float
    """What an average step of the stage costs (any convention, the same for all stages)."""


def remaining_seconds(
    stages: Iterable[StagePlan], steps_done: int, observed_s: Mapping[int, Sequence[float]]
) -> float | None:
    """Seconds of the steps still to do; None before anything was measured and there is something to do.

    `observed_s` holds the measured seconds of steps by stage number. A stage that was seen costs its median step; one
    that was not costs its FLOPs at the seconds per FLOP of the stages seen, so later, slower stages are foreseen.
    """
    stages = list(stages)
    medians = {number: median(times) for number, times in observed_s.items() if times}
    seen = [stage for stage in stages if stage.number in medians]
    per_flop = sum(medians[stage.number] for stage in seen) / sum(stage.flops_per_step for stage in seen) if seen else 0
    total, begin = 0.0, 0
    for stage in stages:
        steps = max(0, stage.until_step - max(begin, steps_done))
        if steps and not seen:
            return None
        total += steps * medians.get(stage.number, per_flop * stage.flops_per_step)
        begin = max(begin, stage.until_step)
    return total
