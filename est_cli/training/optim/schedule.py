"""The learning rate: a pure function of the step, so that there is nothing to save."""

from __future__ import annotations

import math

from est_cli.config import DEFAULT_MIN_LR_RATIO, LrSchedule, OptimConfig
from est_cli.config.optim import BatchLr, decay_begin, warmup_end
from est_cli.est.batch import BatchSchedule

EXPONENT = {BatchLr.none: 0.0, BatchLr.sqrt: 0.5, BatchLr.linear: 1.0}


def lr_at(step: int, batch: BatchSchedule, optim: OptimConfig) -> float:
    """Learning rate of step `step` (0-based): linear warm-up, then the schedule down to its floor.

    - wsd (warm-up, stable, decay): constant, then linear over the last `decay` steps
    - cosine, linear: down to the floor over all steps after the warm-up
    - constant: no descent

    Its course is one over tokens, which are steps where all steps have as many; optim.batch_lr and optim.stage_lr
    are factors beside it.
    """
    peak = optim.lr * (batch.at(step).tokens / batch.stages[-1].tokens) ** EXPONENT[optim.batch_lr]
    if optim.stage_lr is not None:
        peak *= optim.stage_lr[batch.stage_at(step) - 1]
    warmup = warmup_end(optim, batch)
    if step < warmup:
        return peak * batch.clock(step + 1) / batch.clock(warmup)
    floor = DEFAULT_MIN_LR_RATIO if optim.min_lr_ratio is None else optim.min_lr_ratio
    if optim.schedule is LrSchedule.constant:
        return peak
    decay = decay_begin(optim, batch)
    begin = batch.clock(warmup if decay is None else decay)
    progress = min(1.0, max(0.0, (batch.clock(step + 1) - begin) / max(1, batch.clock(batch.max_steps) - begin)))
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule is LrSchedule.cosine else 1.0 - progress
    return peak * (floor + (1.0 - floor) * shape)


def common_lr_steps(one: BatchSchedule, other: BatchSchedule, optim: OptimConfig) -> int:
    """For how many steps from the first on two runs of these settings have the same learning rate.

    It is one over tokens, so that steps differ in it whose own stages are the same. Counts on steps before that agree.
    """
    length = min(one.max_steps, other.max_steps)
    warmups, totals = [], []
    for batch in (one, other):
        warmups.append(batch.tokens_before(warmup_end(optim, batch)))
        totals.append(batch.tokens_before(batch.max_steps))
    if warmups[0] != warmups[1]:
        return 0
    if optim.schedule is LrSchedule.constant:
        return length
    begins = [decay_begin(optim, batch) for batch in (one, other)]
    if begins[0] == begins[1] and totals[0] == totals[1]:
        return length
    return min(warmup_end(optim, batch) if begin is None else begin
               for batch, begin in zip((one, other), begins, strict=True))  # fmt: skip
