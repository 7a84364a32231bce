"""What a scheduler says of itself, and the dials that several of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from est_cli.est.schedule import SamplingRates, SamplingScheduler, boundary_step

if TYPE_CHECKING:
    from est_cli.config.stage import StageConfig

RATES = ("p_h", "p_m", "p_l")
POSITIONS = ("p_t",)
MORE = (*POSITIONS, "layer_rates")
"""What may stand beside RATES; null: all predictions, and all layers alike."""
LAYERS_DRAWN = ("redraw", "ranks", "layer_scale", "keep_ends", "protect")
DRAWN = (*LAYERS_DRAWN, "cover", "layers_by", "per_layer", "kv_groups", "unit_scale", "multiple_of")
"""All of `sampling.*`: read where heads, columns and layers are drawn."""
GROWN = ("boundaries", "depths")
LEFT_OUT = ("skipped_layers", "unsampled_rows")
"""What the optimizer does with layers and rows that did not run has a meaning where there are any. A layer that has not
joined yet is no skipped one: nothing may change it."""

_DIGITS = 4
"""Of rates that a target finds, so that they can be typed."""
_LEAST_RATE = 10.0**-_DIGITS


@dataclass(frozen=True)
class Dial:
    """What the saving of a scheduler is set by, as a number in [0, 1]: the higher, the more is saved."""

    at: Callable[[float], StageConfig]
    finest: float
    """Changes of the number that are smaller change nothing."""


@dataclass(frozen=True)
class Scheduler:
    """A sampling scheduler as a user chooses it: what it reads of the configuration and how it is made from that."""

    meaning: str
    """One line for `--help` and docs/settings.md."""
    make: Callable[[int, StageConfig], SamplingScheduler]
    """Of the run's steps and the checked settings. Cheap and a function of these alone, so that a search may call it
    often. Raises ValueError, which names the key, where a value does not do."""
    reads: tuple[str, ...] = ()
    """Keys of `stage.*` that it needs."""
    optional: tuple[str, ...] = ()
    """Keys of `stage.*` that it reads and that may be null."""
    sampling: tuple[str, ...] = ()
    """Keys of `sampling.*` that have a meaning."""
    optim: tuple[str, ...] = ()
    """Those of LEFT_OUT that have a meaning."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of another package's scheduler: values of `stage.*` where the command line gives none. Those of est's own stand
    in conf/scheduler/NAME.yaml."""
    dial: Callable[[StageConfig, int, str], Dial] | None = None
    """How est-plan reaches a wanted saving, of the settings, the run's steps and what `target_keep` holds fixed; None
    where nothing is saved, or nothing is to be turned."""
    grows: bool = False
    """Whether the model begins with few layers and gets the others on the way."""
    drops_entries: bool = False
    """Whether plain dropout takes part, whose random numbers depend on how a step is cut into micro-batches."""

    @property
    def saves(self) -> bool:
        return self.dial is not None


def as_list(value: Any) -> Any:
    """A list; of a single value the list of it."""
    return value if isinstance(value, list) or value is None else [value]


def rates_of(stage: StageConfig) -> SamplingRates:
    """p_h, p_m, p_l and p_t, and the rates by layer."""
    p_t = 1.0 if stage.p_t is None else stage.p_t
    return with_layer_rates(checked_rates(p_h=stage.p_h, p_m=stage.p_m, p_l=stage.p_l, p_t=p_t), stage)


def with_layer_rates(rates: SamplingRates, stage: StageConfig) -> SamplingRates:
    """ValueError that names the key, where they are none."""
    if stage.layer_rates == []:
        raise ValueError("stage.layer_rates: is empty; give a rate for each layer, or null")
    try:
        return replace(rates, by_layer=tuple(stage.layer_rates or ()))
    except ValueError as error:
        raise ValueError(f"stage.{error}") from error


def checked_rates(**rates: Any) -> SamplingRates:
    """ValueError that names the key, where a rate is none."""
    try:
        return SamplingRates(**rates)
    except ValueError as error:
        raise ValueError(f"stage.{error}") from error


def grown(make: Callable[..., SamplingScheduler]) -> Callable[[int, StageConfig], SamplingScheduler]:
    """Of `boundaries` and `depths`."""
    return lambda steps, stage: make(steps, as_list(stage.boundaries), as_list(stage.depths))


def ramp(make: Callable[..., SamplingScheduler]) -> Callable[[int, StageConfig], SamplingScheduler]:
    """Of `t2`, the rates and `levels`."""
    return lambda steps, stage: make(steps, stage.t2, rates_of(stage), stage.levels)


def t2_dial(stage: StageConfig, steps: int, keep: str) -> Dial:
    """The last transition, from the first step to the last."""
    return Dial(lambda x: replace(stage, t2=round(x * steps)), 0.25 / steps)


def boundaries_dial(stage: StageConfig, steps: int, keep: str) -> Dial:
    """All boundaries times one factor, the last one from the first step to the last."""
    ends = [boundary_step(boundary, steps) for boundary in as_list(stage.boundaries)]
    shares = [end / ends[-1] if ends[-1] else 1.0 for end in ends]
    return Dial(lambda x: replace(stage, boundaries=[round(share * x * (steps - 1)) for share in shares]), 0.25 / steps)


def rates_dial(stage: StageConfig, steps: int, keep: str) -> Dial:
    """What the rates lack to 1, in the proportion that it has, up to the least rate that there is."""
    lacking = {key: 1.0 - rate for key in (*RATES, *POSITIONS) if (rate := getattr(stage, key)) is not None}
    most = max(lacking.values()) or math.inf

    def at(x: float) -> StageConfig:
        rates: dict[str, Any] = {key: typed_rate(1.0 - x * lack / most) for key, lack in lacking.items()}
        return replace(stage, **rates)

    return Dial(at, FINEST_RATE)


FINEST_RATE = _LEAST_RATE / 2
"""The `finest` of a dial that is a rate."""


def typed_rate(value: float) -> float:
    """A rate with as many digits as a person types."""
    return max(_LEAST_RATE, round(value, _DIGITS))
