"""Rates that grow step by step."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import DRAWN, LEFT_OUT, RATES, Scheduler, rates_of, t2_dial
from est_cli.config.stage import StageConfig
from est_cli.est.schedule import SamplingScheduler, linear


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.t2 is not None and stage.levels is not None
    return linear(steps, stage.t2, rates_of(stage), stage.levels)


SCHEDULER = Scheduler(
    meaning="every rate grows to 1 at t2 on a line, in equal steps",
    make=_make,
    reads=("t2", *RATES, "levels"),
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=t2_dial,
)
