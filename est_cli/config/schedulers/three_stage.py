"""The paper's practical scheduler."""

from __future__ import annotations

from dataclasses import replace

from est_cli.config.schedulers.shared.scheduler import DRAWN, LEFT_OUT, MORE, RATES, Dial, Scheduler, rates_of
from est_cli.config.stage import StageConfig
from est_cli.est.schedule import SamplingScheduler, boundary_step, three_stage


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.t1 is not None and stage.t2 is not None
    return three_stage(steps, stage.t1, stage.t2, rates_of(stage))


def _dial(stage: StageConfig, steps: int, keep: str) -> Dial:
    assert stage.t1 is not None and stage.t2 is not None
    t1, t2 = boundary_step(stage.t1, steps), boundary_step(stage.t2, steps)
    finest = 0.25 / steps
    if keep == "ratio":
        share = t1 / t2 if t2 else 0.0
        return Dial(lambda x: replace(stage, t1=round(share * x * steps), t2=round(x * steps)), finest)
    if keep == "t1":
        return Dial(lambda x: replace(stage, t1=t1, t2=round(t1 + x * (steps - t1))), finest)
    return Dial(lambda x: replace(stage, t1=round(x * t2), t2=t2), finest)


SCHEDULER = Scheduler(
    meaning="the paper's: heads, columns and layers sampled up to t1, all layers up to t2, then everything",
    make=_make,
    reads=("t1", "t2", *RATES),
    optional=MORE,
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=_dial,
)
