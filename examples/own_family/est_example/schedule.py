"""A scheduler of one's own: heads and columns sampled up to t2, then everything; all layers run from the beginning."""

from __future__ import annotations

from est_cli.config.schedulers import Scheduler
from est_cli.config.stage import StageConfig
from est_cli.est import SamplingRates, SamplingScheduler, n_stage


def make(steps: int, stage: StageConfig) -> SamplingScheduler:
    """Of a run of `steps` steps."""
    return n_stage(steps, [stage.t2], [SamplingRates(stage.p_h, stage.p_m), SamplingRates()], name="two_stage")


SCHEDULER = Scheduler(
    meaning="heads and columns sampled up to t2, then everything",
    make=make,
    reads=("t2", "p_h", "p_m"),  # keys of stage.* that it needs; the others are refused under it
    defaults={"t2": 0.5, "p_h": 0.5, "p_m": 0.5},
    sampling=("redraw", "ranks", "per_layer", "multiple_of"),
    optim=("unsampled_rows",),
)
