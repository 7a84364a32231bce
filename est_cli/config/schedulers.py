"""The schedulers by name: which settings each of them reads, and how it is made from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from est_cli.config import SchedulerName, StageConfig
from est_cli.est import baselines, schedule, stacking
from est_cli.est.schedule import SamplingRates, SamplingScheduler

_RATES = ("p_h", "p_m", "p_l")
_DRAWN = ("redraw", "ranks", "per_layer", "kv_groups", "layer_scale", "keep_ends")
_GROWN = ("boundaries", "depths")
_LEFT_OUT = ("skipped_layers", "unsampled_rows")


@dataclass(frozen=True)
class Reads:
    """What a scheduler reads of the configuration."""

    stage: tuple[str, ...] = ()
    sampling: tuple[str, ...] = ()
    optim: tuple[str, ...] = ()
    """What the optimizer does with layers and rows that did not run has a meaning where there are any. A layer that has
    not joined yet is no skipped one: nothing may change it."""
    optional: tuple[str, ...] = ()
    """Keys of stage that may be null."""


READS: dict[SchedulerName, Reads] = {
    SchedulerName.three_stage: Reads(("t1", "t2", *_RATES), _DRAWN, _LEFT_OUT),
    SchedulerName.n_stage: Reads(("boundaries", "rates"), _DRAWN, _LEFT_OUT),
    SchedulerName.linear: Reads(("t2", *_RATES, "levels"), _DRAWN, _LEFT_OUT),
    SchedulerName.cosine: Reads(("t2", *_RATES, "levels"), _DRAWN, _LEFT_OUT),
    SchedulerName.constant: Reads(_RATES, _DRAWN, _LEFT_OUT),
    SchedulerName.dense: Reads(),
    SchedulerName.raptr: Reads(_GROWN, ("redraw", "ranks", "layer_scale"), _LEFT_OUT[:1]),
    SchedulerName.layer_dropout: Reads(("p_l",), ("redraw", "ranks", "layer_scale", "keep_ends"), _LEFT_OUT[:1]),
    SchedulerName.pld: Reads(("theta", "gamma"), ("redraw", "ranks", "keep_ends"), _LEFT_OUT[:1], ("gamma",)),
    SchedulerName.early_dropout: Reads(("t2", "p_d")),
    SchedulerName.gradual_stacking: Reads(_GROWN),
    SchedulerName.g_stack: Reads(_GROWN),
    SchedulerName.one_layer: Reads(_GROWN),
}

GROWING = (SchedulerName.gradual_stacking, SchedulerName.g_stack, SchedulerName.one_layer)
"""Those that train a model of few layers first."""


def make_scheduler(name: SchedulerName, stage: StageConfig, max_steps: int) -> SamplingScheduler:
    """The scheduler of this name for a run of `max_steps`; `stage` holds all that it reads.

    Cheap and a function of its arguments alone, so that a search may call it often. Raises ValueError, which names the
    key, where a value does not do.
    """
    return _MAKE[name](max_steps, stage)


def as_list(value: Any) -> Any:
    """A list; of a single value the list of it."""
    return value if isinstance(value, list) or value is None else [value]


def _rates(stage: StageConfig) -> SamplingRates:
    return _checked(p_h=stage.p_h, p_m=stage.p_m, p_l=stage.p_l)


def _checked(**rates: Any) -> SamplingRates:
    try:
        return SamplingRates(**rates)
    except ValueError as error:
        raise ValueError(f"stage.{error}") from error


def _rates_of_stages(stage: StageConfig) -> list[SamplingRates]:
    try:
        return [SamplingRates(float(p_h), float(p_m), float(p_l)) for p_h, p_m, p_l in stage.rates or []]
    except ValueError as error:
        raise ValueError(f"stage.rates: {error}") from error


def _grown(make: Callable[..., SamplingScheduler]) -> Callable[[int, StageConfig], SamplingScheduler]:
    return lambda steps, stage: make(steps, as_list(stage.boundaries), as_list(stage.depths))


def _three_stage(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.t1 is not None and stage.t2 is not None
    return schedule.three_stage(steps, stage.t1, stage.t2, _rates(stage))


def _ramp(make: Callable[..., SamplingScheduler]) -> Callable[[int, StageConfig], SamplingScheduler]:
    return lambda steps, stage: make(steps, stage.t2, _rates(stage), stage.levels)


def _layer_dropout(steps: int, stage: StageConfig) -> SamplingScheduler:
    return baselines.layer_dropout(steps, _checked(p_l=stage.p_l).p_l)


def _pld(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.theta is not None
    return baselines.pld(steps, stage.theta, stage.gamma)


def _early_dropout(steps: int, stage: StageConfig) -> SamplingScheduler:
    assert stage.t2 is not None
    return baselines.early_dropout(steps, stage.t2, _checked(p_d=stage.p_d).p_d)


_MAKE: dict[SchedulerName, Callable[[int, StageConfig], SamplingScheduler]] = {
    SchedulerName.three_stage: _three_stage,
    SchedulerName.n_stage: lambda steps, stage: schedule.n_stage(
        steps, as_list(stage.boundaries), _rates_of_stages(stage)
    ),
    SchedulerName.linear: _ramp(schedule.linear),
    SchedulerName.cosine: _ramp(schedule.cosine),
    SchedulerName.constant: lambda steps, stage: schedule.constant(steps, _rates(stage)),
    SchedulerName.dense: lambda steps, stage: schedule.dense(steps),
    SchedulerName.raptr: _grown(baselines.raptr),
    SchedulerName.layer_dropout: _layer_dropout,
    SchedulerName.pld: _pld,
    SchedulerName.early_dropout: _early_dropout,
    SchedulerName.gradual_stacking: _grown(stacking.gradual_stacking),
    SchedulerName.g_stack: _grown(stacking.g_stack),
    SchedulerName.one_layer: _grown(stacking.one_layer),
}
