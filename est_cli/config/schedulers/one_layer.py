"""Expansion of a shallow model (Bu)."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import GROWN, Scheduler, boundaries_dial, grown
from est_cli.est.stacking import one_layer

SCHEDULER = Scheduler(
    meaning="one layer, then all: those that join are fresh",
    make=grown(one_layer),
    reads=GROWN,
    dial=boundaries_dial,
    grows=True,
)
