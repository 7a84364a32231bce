"""Any stages, written out."""

from __future__ import annotations

from est_cli.config.schedulers.shared.scheduler import (
    DRAWN,
    LEFT_OUT,
    Scheduler,
    as_list,
    boundaries_dial,
    with_layer_rates,
)
from est_cli.config.stage import StageConfig
from est_cli.est.schedule import SamplingRates, SamplingScheduler, n_stage


def _make(steps: int, stage: StageConfig) -> SamplingScheduler:
    try:
        rates = [_rates(*map(float, entry)) for entry in stage.rates or []]
    except ValueError as error:
        raise ValueError(f"stage.rates: {error}") from error
    return n_stage(steps, as_list(stage.boundaries), [with_layer_rates(one, stage) for one in rates])


def _rates(p_h: float, p_m: float, p_l: float, p_t: float = 1.0) -> SamplingRates:
    return SamplingRates(p_h, p_m, p_l, p_t=p_t)


SCHEDULER = Scheduler(
    meaning="any stages: boundaries, and [p_h, p_m, p_l] of each, or [p_h, p_m, p_l, p_t]",
    make=_make,
    reads=("boundaries", "rates"),
    optional=("layer_rates",),
    sampling=DRAWN,
    optim=LEFT_OUT,
    dial=boundaries_dial,
)
