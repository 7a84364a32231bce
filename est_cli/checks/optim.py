"""Optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

from est_cli.config import DEFAULT_DECAY, LrSchedule, RunConfig
from est_cli.derived import max_steps
from est_cli.est.schedule import boundary_step


def optim_problems(config: RunConfig) -> Iterator[str]:
    optim = config.optim
    if optim.name != "adamw":
        yield f"optim.name: {optim.name!r} is not one of adamw"
    if not (math.isfinite(optim.lr) and optim.lr > 0):
        yield f"optim.lr: {optim.lr} is out of range; it must be above 0"
    for key in ("beta1", "beta2"):
        if not 0.0 <= getattr(optim, key) < 1.0:
            yield f"optim.{key}: {getattr(optim, key)} is out of range; it must be in [0, 1)"
    for key in ("weight_decay", "grad_clip"):
        if not (math.isfinite(getattr(optim, key)) and getattr(optim, key) >= 0):
            yield f"optim.{key}: {getattr(optim, key)} is out of range; it must be at least 0"
    if not (math.isfinite(optim.eps) and optim.eps > 0):
        yield f"optim.eps: {optim.eps} is out of range; it must be above 0"
    if optim.decay is not None and optim.schedule is not LrSchedule.wsd:
        yield f"optim.decay: belongs to optim.schedule=wsd and has no meaning under {optim.schedule.value}"
    if optim.min_lr_ratio is not None:
        if optim.schedule is LrSchedule.constant:
            yield "optim.min_lr_ratio: has no meaning under optim.schedule=constant"
        elif not 0.0 <= optim.min_lr_ratio <= 1.0:
            yield f"optim.min_lr_ratio: {optim.min_lr_ratio} is out of range; it must be in [0, 1]"
    yield from _lr_spans(config)


def _lr_spans(config: RunConfig) -> Iterator[str]:
    """warmup and decay are spans of the run; together they must fit into it."""
    steps, spans = max_steps(config), {}
    if steps < 1:
        return
    for key, default in (("warmup", 0.0), ("decay", DEFAULT_DECAY)):
        value = getattr(config.optim, key)
        try:
            spans[key] = boundary_step(default if value is None else value, steps)
        except ValueError as error:
            yield f"optim.{key}: {error}"
    if config.optim.schedule is LrSchedule.wsd and len(spans) == 2 and sum(spans.values()) > steps:
        yield f"optim.decay: warm-up ({spans['warmup']}) and decay ({spans['decay']}) exceed the run of {steps} steps"
