"""The inverse of the ledger: stage boundaries that save a wanted share of the FLOPs. No torch."""

from __future__ import annotations

import math
from dataclasses import replace

from .flops import training_flops
from .schedule import SamplingScheduler
from .sizes import SamplingOptions, full_sizes, sample_sizes
from .spec import ModelSpec


def stage_savings(
    spec: ModelSpec, scheduler: SamplingScheduler, options: SamplingOptions, seq_len: int, convention: str
) -> list[float]:
    """Share of the dense FLOPs (0-1) that a step of each stage saves; `convention` is blocks or total."""
    dense = getattr(training_flops(spec, full_sizes(spec), 1, seq_len), convention)
    used = [training_flops(spec, sample_sizes(spec, stage.rates, options), 1, seq_len) for stage in scheduler.stages]
    return [1.0 - getattr(flops, convention) / dense for flops in used]


def boundaries_for(saving: float, scheduler: SamplingScheduler, savings: list[float], keep: str) -> SamplingScheduler:
    """`scheduler` (three stages) with its boundaries moved so that the run saves the share `saving` of the FLOPs.

    With s1, s2 the shares that a step of stages 1 and 2 saves, a run of T steps saves (t1*s1 + (t2 - t1)*s2) / T.
    `keep` says what stays: `ratio` (t1:t2), `t1` or `t2`. Boundaries are whole steps: the saving is met to about 1/T.
    Raises ValueError where it is out of reach, saying what is not.
    """
    t1, t2, steps = (stage.until_step for stage in scheduler.stages)
    s1, s2, _ = savings
    if keep == "ratio":
        share = t1 / t2 if t2 else 0.0
        lowest, highest = 0.0, share * s1 + (1.0 - share) * s2
    elif keep == "t1":
        lowest, highest = t1 * s1 / steps, (t1 * s1 + (steps - t1) * s2) / steps
    else:
        lowest, highest = t2 * s2 / steps, t2 * s1 / steps
    if not lowest <= saving <= highest or lowest == highest:
        raise ValueError(
            f"target_saving: {saving:g} is out of reach; with target_keep={keep} these rates save "
            f"{math.ceil(lowest * 1e4) / 1e4:g} to {math.floor(highest * 1e4) / 1e4:g}"
        )
    part = (saving - lowest) / (highest - lowest)
    if keep == "ratio":
        ends = (share * part * steps, part * steps, steps)
    elif keep == "t1":
        ends = (t1, t1 + part * (steps - t1), steps)
    else:
        ends = (part * t2, t2, steps)
    stages = tuple(replace(stage, until_step=round(end)) for stage, end in zip(scheduler.stages, ends, strict=True))
    return replace(scheduler, stages=stages)
