"""What est-plan is asked beside what a run is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from est_cli.config.run import RunConfig


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
    target_saving: float | None = None
    """Find the stages that save this fraction of the FLOPs, in (0, 1)."""
    target_flops: float | None = None
    """Find the number of steps whose FLOPs are these."""
    target_convention: Convention = Convention.blocks
    target_keep: Target = Target.ratio
    """three_stage: what stays as it is while the boundaries move: the ratio t1:t2, or t1, or t2."""
    probe: bool = False
    """Measure on this machine how long a step of each stage takes."""
    plot: str | None = None
    """A PNG file to draw the plan into."""
