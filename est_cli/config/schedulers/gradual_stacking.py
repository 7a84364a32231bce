"""Gradual stacking (Reddi et al.)."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import GROWN, Scheduler, boundaries_dial, grown
from est_cli.est.stacking import gradual_stacking

SCHEDULER = Scheduler(
    meaning="gradual stacking: layers that join are copies of the last ones",
    make=grown(gradual_stacking),
    reads=GROWN,
    dial=boundaries_dial,
    grows=True,
)
