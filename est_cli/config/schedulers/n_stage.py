"""Any stages, written out."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import DRAWN, LEFT_OUT, Scheduler, as_list, boundaries_dial
from est_cli.config.stage import StageConfig
from est_cli.est.schedule import SamplingRates, SamplingScheduler, n_stage


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    try:
        rates = [SamplingRates(float(p_h), float(p_m), float(p_l)) for p_h, p_m, p_l in stage.rates or []]
    except ValueError as error:
        raise ValueError(f"stage.rates: {error}") from error
    return n_stage(steps, as_list(stage.boundaries), rates)


SCHEDULER = Scheduler(
    meaning="any stages: boundaries, and [p_h, p_m, p_l] of each",
    make=_make,
    reads=("boundaries", "rates"),
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=boundaries_dial,
)
