"""Optimizer and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator

from est_cli.config import (
    DEFAULT_DECAY,
    LrSchedule,
    OptimConfig,
    OptimName,
    RunConfig,
    UnsampledRows,
)
from est_cli.config.resolve import max_steps
from est_cli.est.schedule import boundary_step

MUON_KEYS = ("muon_lr", "momentum", "nesterov", "ns_steps", "adjust_lr")
MAX_NS_STEPS = 99
"""What torch allows; five are usual."""


def optim_problems(config: RunConfig) -> Iterator[str]:
    optim = config.optim
    for key in ("lr", "muon_lr"):
        value = getattr(optim, key)
        if value is not None and not (math.isfinite(value) and value > 0):
            yield f"optim.{key}: {value} is out of range; it must be above 0"
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
    yield from _muon(optim)
    yield from _not_there(config)
    yield from _lr_spans(config)


def _muon(optim: OptimConfig) -> Iterator[str]:
    if optim.momentum is not None and not 0.0 <= optim.momentum < 1.0:
        yield f"optim.momentum: {optim.momentum} is out of range; it must be in [0, 1)"
    if optim.ns_steps is not None and not 1 <= optim.ns_steps <= MAX_NS_STEPS:
        yield f"optim.ns_steps: {optim.ns_steps} is out of range; it must be at least 1 and at most {MAX_NS_STEPS}"
    for key in MUON_KEYS:
        if optim.name is not OptimName.muon and getattr(optim, key) is not None:
            yield f"optim.{key}: belongs to optim=muon and has no meaning under optim.name={optim.name.value}"


def _not_there(config: RunConfig) -> Iterator[str]:
    """Choices that do not go together with others."""
    optim, sharded = config.optim, config.launch.strategy == "fsdp"
    muon, frozen = optim.name is OptimName.muon, optim.unsampled_rows is UnsampledRows.frozen
    if muon and sharded:
        yield (
            "optim.name: muon has no meaning under launch.strategy=fsdp, where no process holds a whole matrix to "
            "orthogonalise; use ddp"
        )
    if muon and frozen:
        yield (
            "optim.unsampled_rows: frozen has no meaning under optim.name=muon, whose update of a row depends on all "
            "rows of its matrix; use adamw"
        )
    if frozen and sharded:
        yield (
            "optim.unsampled_rows: frozen is not there under launch.strategy=fsdp, where the rows of a matrix are "
            "spread over the processes; use ddp"
        )


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
