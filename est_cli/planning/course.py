"""The course of a planned run: its rates and what a step costs, at equal distances from its first step to its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from est_cli.est import IndexGenerator, training_flops
from est_cli.est.by_sequence import step_counts
from est_cli.est.flops import flops_of
from est_cli.est.kept import varies
from est_cli.est.sizes import SequenceCounts, full_sizes, realised_p_t, realised_rates
from est_cli.planning.plan import Plan

_DRAWS = 64
"""Of sizes that vary: how many steps' draws the mean is taken over."""
_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Point:
    """One step: realised rates, and its FLOPs in both conventions as a share of the complete model's."""

    step: int
    p_h: float
    p_m: float
    p_l: float
    p_t: float
    blocks: float
    total: float


def course_of(plan: Plan, points: int) -> list[Point]:
    """So many points; each is the middle step of its part of the run. Sizes that vary are means over nearby steps."""
    steps = plan.scheduler.max_steps
    return [_point(plan, (2 * number + 1) * steps // (2 * points)) for number in range(points)]


def column(course: Sequence[Point], name: str) -> list[float]:
    """One number of every point."""
    return [getattr(point, name) for point in course]


def sparkline(values: Sequence[float]) -> str:
    """One block for each value in [0, 1]; the full block is 1 alone: a complete model is told from nearly one."""
    return "".join(_LEVELS[min(int(value * (len(_LEVELS) - 1)), len(_LEVELS) - 1)] for value in values)


def _point(plan: Plan, step: int) -> Point:
    counts = _counts_near(plan, step)
    seq_len = plan.batch.at(step).seq_len
    rates, used = realised_rates(plan.spec, counts), flops_of(plan.spec, counts, seq_len)
    sequences = sum(count for _, count in counts)
    dense = training_flops(plan.spec, full_sizes(plan.spec), sequences, seq_len)
    p_t, shares = realised_p_t(counts, seq_len), (used.blocks / dense.blocks, used.total / dense.total)
    return Point(step, rates.p_h, rates.p_m, rates.p_l, p_t, *shares)


def _counts_near(plan: Plan, step: int) -> SequenceCounts:
    """What the sequences of `step` run; of sizes that vary what one does in the steps around it."""
    scheduler, number = plan.scheduler, plan.scheduler.stage_at(step)
    stage = scheduler.stages[number - 1]
    if not varies(plan.spec, stage.rates, plan.options):
        return step_counts(plan.spec, stage.rates, plan.options, plan.splits[number])
    first = stage.until_step - scheduler.stage_steps()[number - 1]
    near = range(max(first, step - _DRAWS // 2), min(step + _DRAWS // 2, stage.until_step))
    sizes, of_steps = IndexGenerator(plan.spec, plan.seed, plan.options).sizes_at(near, stage)
    return [(sizes[row], 1) for row in of_steps.tolist()]
