"""What est-plan is asked beside what a run is: targets, a measurement, a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from est_cli.config.length import LENGTHS, MOST_STEPS
from est_cli.config.run import RunConfig
from est_cli.config.schedulers import is_outside, scheduler_named
from est_cli.config.setting import above, setting


class Target(StrEnum):
    """What `target_saving` holds fixed while it moves the stage boundaries of three_stage."""

    ratio = "ratio"
    t1 = "t1"
    t2 = "t2"


class Convention(StrEnum):
    """Which FLOPs are meant: the paper's (`blocks`) or all matrix products (`total`)."""

    blocks = "blocks"
    total = "total"


@dataclass
class PlanConfig(RunConfig):
    target_saving: float | None = setting(
        None,
        "Find the stages that save this fraction of the FLOPs, in (0, 1).",
        brief="Find stages that save this fraction, in (0, 1)",
    )
    target_flops: float | None = setting(None, "Find the number of steps whose FLOPs are these.")
    target_convention: Convention = setting(
        Convention.blocks,
        "Which FLOPs a target means: of the layers' projections, or all matrix products.",
        brief="FLOPs of layers' projections, or all",
    )
    target_keep: Target = setting(
        Target.ratio,
        "three_stage: what stays as it is while the boundaries move: the ratio t1:t2, or t1, or t2.",
        brief="What stays while the boundaries move",
    )
    prices: str | None = setting(
        None,
        "The folder of an est-analyze analysis=prices: what loss the schedule is expected to cost; with target_saving, "
        "which needs no scheduler then, the n_stage schedule that is expected to cost the least.",
        brief="A folder of prices: predict the loss; design",
    )
    probe: bool = setting(
        False,
        "Measure on this machine how long a step of each stage takes.",
        brief="Measure the time of each stage's steps here",
    )
    gpus: list[str] = setting(
        ["A100", "H100"],
        "GPUs whose hours are told, by words of their names in the table of peaks; [] for none.",
        brief="GPUs whose hours are told; [] for none",
    )
    mfu: float = setting(
        0.4,
        "The share of a GPU's peak that its hours assume, of all FLOPs (total). Sampled stages of small models reach "
        "less than dense training does.",
        within=above(0, most=1),
        brief="Share of a GPU's peak that its hours assume",
    )
    plot: str | None = setting(None, "A PNG file to draw the plan into.")


def plan_problems(config: PlanConfig) -> Iterator[str]:
    if config.target_saving is not None:
        yield from _saving(config, config.target_saving)
    if config.target_flops is not None:
        yield from _flops(config, config.target_flops)
    if config.target_convention is not Convention.blocks and config.target_saving is config.target_flops is None:
        word = config.target_convention.value
        yield f"target_convention: {word} goes with target_saving or target_flops; leave it blocks"
    if config.target_keep is not Target.ratio and (
        config.target_saving is None or config.scheduler.name != "three_stage"
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
    return replace(config, train=replace(config.train, max_steps=MOST_STEPS, max_tokens=None, max_flops=None))


def _saving(config: PlanConfig, saving: float) -> Iterator[str]:
    name = config.scheduler.name
    if config.prices is None and not scheduler_named(name).saves:
        why = "has nothing to turn for a saving" if is_outside(name) else "saves nothing"
        yield f"target_saving: scheduler={name} {why}; use another one, or target_flops"
    if not 0.0 < saving < 1.0:
        yield f"target_saving: {saving} is out of range; it is a fraction in (0, 1), 0.25 for a quarter"


def _flops(config: PlanConfig, flops: float) -> Iterator[str]:
    if config.target_saving is not None:
        yield "target_flops: does not go with target_saving; the one sets the length of the run, the other its stages"
    if not 0.0 < flops < float("inf"):
        yield f"target_flops: {flops} is out of range; it is an amount of FLOPs, such as 1e15"
    for key in LENGTHS:
        if getattr(config.train, key) is not None:
            yield f"train.{key}: is what target_flops finds; leave it null"


def _plot(path: Path) -> Iterator[str]:
    if path.suffix != ".png":
        yield f"plot: {path} is no name of a PNG file; give one that ends in .png"
    elif path.exists():
        yield f"plot: {path} is there already; give another name"
    elif not path.parent.is_dir():
        yield f"plot: there is no folder {path.parent}; mkdir -p {path.parent}"
