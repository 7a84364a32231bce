"""G_stack (Du et al.)."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import GROWN, Scheduler, boundaries_dial, grown
from est_cli.est.stacking import g_stack

SCHEDULER = Scheduler(
    meaning="G_stack: the whole model once more on top of itself",
    make=grown(g_stack),
    reads=GROWN,
    dial=boundaries_dial,
    grows=True,
)
