"""The learning rate: a pure function of the step, so that there is nothing to save."""

from __future__ import annotations

import math

from est_cli.config import DEFAULT_MIN_LR_RATIO, LrSchedule, OptimConfig
from est_cli.config.optim import decay_begin
from est_cli.est.schedule import boundary_step


def lr_at(step: int, max_steps: int, optim: OptimConfig) -> float:
    """Learning rate of step `step` (0-based): linear warm-up, then the schedule down to its floor.

    - wsd (warm-up, stable, decay): constant, then linear over the last `decay` steps
    - cosine, linear: down to the floor over all steps after the warm-up
    - constant: no descent
    """
    warmup = boundary_step(optim.warmup, max_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    floor = DEFAULT_MIN_LR_RATIO if optim.min_lr_ratio is None else optim.min_lr_ratio
    if optim.schedule is LrSchedule.constant:
        return optim.lr
    decay = decay_begin(optim, max_steps)
    begin = warmup if decay is None else decay
    progress = min(1.0, max(0.0, (step + 1 - begin) / max(1, max_steps - begin)))
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule is LrSchedule.cosine else 1.0 - progress
    return optim.lr * (floor + (1.0 - floor) * shape)
