"""Ordinary training, the baseline."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import Scheduler, as_list
from est_cli.est.schedule import dense

SCHEDULER = Scheduler(
    meaning="ordinary training of the complete model: the baseline",
    make=lambda steps, stage: dense(steps, as_list(stage.boundaries) or ()),
    optional=("boundaries",),
)
