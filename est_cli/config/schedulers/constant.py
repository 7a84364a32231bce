"""The same rates in all steps."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import (
    DRAWN,
    LEFT_OUT,
    MORE,
    RATES,
    Scheduler,
    rates_dial,
    rates_of,
)
from est_cli.est.schedule import constant

SCHEDULER = Scheduler(
    meaning="the same rates in all steps: the complete model is never trained as a whole",
    make=lambda steps, stage: constant(steps, rates_of(stage)),
    reads=RATES,
    optional=MORE,
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=rates_dial,
)
