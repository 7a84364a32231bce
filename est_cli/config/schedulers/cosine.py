"""Rates that grow step by step."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import DRAWN, LEFT_OUT, MORE, RATES, Scheduler, ramp, t2_dial
from est_cli.est.schedule import cosine

SCHEDULER = Scheduler(
    meaning="every rate grows to 1 at t2 on half a cosine, in equal steps",
    make=ramp(cosine),
    reads=("t2", *RATES, "levels"),
    optional=MORE,
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=t2_dial,
)
