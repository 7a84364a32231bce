"""What est-plan is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from est_cli.config import Convention, PlanConfig, RunConfig, SchedulerName, Target

SAVES_NOTHING = (SchedulerName.dense, SchedulerName.early_dropout)
MOST_STEPS = 2**40
"""Of a run that target_flops asks for."""


def plan_problems(config: PlanConfig) -> Iterator[str]:
    if config.target_saving is not None:
        yield from _saving(config, config.target_saving)
    if config.target_flops is not None:
        yield from _flops(config, config.target_flops)
    if config.target_convention is not Convention.blocks and config.target_saving is config.target_flops is None:
        word = config.target_convention.value
        yield f"target_convention: {word} goes with target_saving or target_flops; leave it blocks"
    if config.target_keep is not Target.ratio and (
        config.target_saving is None or config.scheduler.name is not SchedulerName.three_stage
    ):
        yield f"target_keep: {config.target_keep.value} goes with target_saving of three_stage; leave it ratio"
    if config.probe and config.launch.num_processes > 1:
        yield "probe: measures one process; set launch.num_processes=1"
    if config.plot is not None:
        yield from _plot(Path(config.plot))


def of_any_length(config: RunConfig) -> RunConfig:
    """The configuration; where target_flops has yet to find its steps, with more of them than any setting names."""
    if not isinstance(config, PlanConfig) or config.target_flops is None:
        return config
    return replace(config, train=replace(config.train, max_steps=MOST_STEPS, max_tokens=None))


def _saving(config: PlanConfig, saving: float) -> Iterator[str]:
    name = config.scheduler.name
    if name in SAVES_NOTHING:
        yield f"target_saving: scheduler={name.value} saves nothing; use another one, or target_flops"
    if not 0.0 < saving < 1.0:
        yield f"target_saving: {saving} is out of range; it is a fraction in (0, 1), 0.25 for a quarter"


def _flops(config: PlanConfig, flops: float) -> Iterator[str]:
    if config.target_saving is not None:
        yield "target_flops: does not go with target_saving; the one sets the length of the run, the other its stages"
    if not (math.isfinite(flops) and flops > 0.0):
        yield f"target_flops: {flops} is out of range; it is an amount of FLOPs, such as 1e15"
    for key in ("max_steps", "max_tokens"):
        if getattr(config.train, key) is not None:
            yield f"train.{key}: is what target_flops finds; leave it null"


def _plot(path: Path) -> Iterator[str]:
    if path.suffix != ".png":
        yield f"plot: {path} is no name of a PNG file; give one that ends in .png"
    elif path.exists():
        yield f"plot: {path} is there already; give another name"
    elif not path.parent.is_dir():
        yield f"plot: there is no folder {path.parent}"
