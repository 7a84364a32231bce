"""Plain dropout at the beginning (Liu et al.), as a control."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import Scheduler, checked_rates
from est_cli.config.stage import StageConfig
from est_cli.est.baselines import early_dropout
from est_cli.est.schedule import SamplingScheduler


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.t2 is not None
    return early_dropout(steps, stage.t2, checked_rates(p_d=stage.p_d).p_d)


SCHEDULER = Scheduler(
    meaning="plain dropout of the branches' outputs up to t2, as a control: no FLOPs are saved",
    make=_make,
    reads=("t2", "p_d"),
    drops_entries=True,
)
