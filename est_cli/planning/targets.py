"""Settings that meet a target: stages that save a wanted share of the FLOPs, or a run that uses a wanted amount.

Every scheduler has one thing that is moved: boundaries (all by one factor, so that their ratios stay) or rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.config import Convention, PlanConfig, SchedulerName, StageConfig, Target
from est_cli.config.checks import check
from est_cli.config.checks.plan import MOST_STEPS
from est_cli.config.resolve import max_steps
from est_cli.config.schedulers import as_list
from est_cli.est import FlopsLedger
from est_cli.est.schedule import boundary_step
from est_cli.est.target import OutOfReach, solve

Ledger = Callable[[PlanConfig], FlopsLedger]
"""The ledger that a run with these settings will end with."""

COARSE = 0.005
"""How far from the wanted saving the nearest possible one may be: whole heads and layers leave gaps."""
_DIGITS = 4
"""Of rates that are found, so that they can be typed."""
_LEAST_RATE = 10.0**-_DIGITS


@dataclass(frozen=True)
class Knob:
    """What a scheduler's saving is set by, as a number in [0, 1]."""

    at: Callable[[float], StageConfig]
    finest: float
    """Changes of the number that are smaller change nothing."""


@dataclass(frozen=True)
class Met:
    """A configuration that meets its target."""

    config: PlanConfig
    asked: str
    """What was asked for, as it was written."""
    found: str
    """The overrides that make it so."""


def met(config: PlanConfig, ledger: Ledger) -> Met | None:
    """The configuration with what its target asks for; None without a target. Raises ConfigError where it cannot be."""
    if config.target_saving is not None:
        return _saving(config, config.target_saving, ledger)
    if config.target_flops is not None:
        return _flops(config, config.target_flops, ledger)
    return None


def knob_of(name: SchedulerName, stage: StageConfig, steps: int, keep: Target) -> Knob:
    """The knob of this scheduler at these settings, for a run of `steps`."""
    finest = 0.25 / steps
    if name is SchedulerName.three_stage:
        return Knob(_three_stage(stage, steps, keep), finest)
    if name in (SchedulerName.linear, SchedulerName.cosine):
        return Knob(lambda x: replace(stage, t2=round(x * steps)), finest)
    if stage.boundaries is not None:
        return Knob(_boundaries(stage, steps), finest)
    if name is SchedulerName.pld:
        return Knob(lambda x: replace(stage, theta=_rate(1.0 - x)), _LEAST_RATE / 2)
    return Knob(_rates(stage), _LEAST_RATE / 2)


def _saving(config: PlanConfig, wanted: float, ledger: Ledger) -> Met:
    name, steps, convention = config.scheduler.name, max_steps(config), config.target_convention.value
    knob = knob_of(name, config.stage, steps, config.target_keep)

    def saved(x: float) -> float:
        return ledger(replace(config, stage=knob.at(x))).saved_pct(convention) / 100.0

    if name is SchedulerName.constant and config.sampling.keep_ends:
        knob = _fitting(knob, saved)
    try:
        x = solve(wanted, saved, knob.finest, tolerance=0.25 / steps)
    except OutOfReach as error:
        kept = f"target_keep={config.target_keep.value} " if name is SchedulerName.three_stage else ""
        lowest, highest = _inwards(math.ceil, error.lowest), _inwards(math.floor, error.highest)
        raise ConfigError(
            f"target_saving: {wanted:g} is out of reach; with {kept or f'scheduler={name.value} '}these rates save "
            f"{lowest:g} to {max(lowest, highest):g}"
        ) from error
    if abs(saved(x) - wanted) > max(COARSE, 1.0 / steps):
        raise ConfigError(
            f"target_saving: {wanted:g} falls between whole units of this model; the nearest is {saved(x):.4g}"
        )
    stage = knob.at(x)
    changed = {key: value for key, value in vars(stage).items() if value != getattr(config.stage, key)}
    moved = changed or {key: value for key, value in vars(stage).items() if value is not None}
    found = " ".join(f"stage.{key}={_written(value)}" for key, value in moved.items())
    return Met(replace(config, stage=stage), f"target_saving={wanted:g} ({convention})", found)


def _fitting(knob: Knob, value: Callable[[float], float]) -> Knob:
    """The knob up to where its rates fit the model: with sampling.keep_ends a rate can be too low for both ends."""

    def fits(x: float) -> bool:
        try:
            value(x)
        except ValueError:
            return False
        return True

    low, high = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
    while high - low > knob.finest:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Knob(lambda x: knob.at(low * x), knob.finest)


def _flops(config: PlanConfig, wanted: float, ledger: Ledger) -> Met:
    """The number of steps whose FLOPs are nearest; boundaries are fractions, so they move along."""
    convention = config.target_convention.value

    def run_of(steps: int) -> PlanConfig:
        return replace(config, train=replace(config.train, max_steps=steps, max_tokens=None))

    def used(steps: int) -> int:
        try:
            amount: int = getattr(ledger(run_of(steps)).used, convention)
        except ValueError:  # too short for its stages
            return 0
        return amount

    low, high = 1, 2
    if wanted < used(1):
        raise ConfigError(f"target_flops: {wanted:g} is out of reach; one step uses {used(1):.4g} ({convention})")
    while used(high) < wanted:
        low, high = high, 2 * high
        if high > MOST_STEPS:
            raise ConfigError(f"target_flops: {wanted:g} is out of reach; it takes over {MOST_STEPS:g} steps")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if used(middle) < wanted else (low, middle)
    if not used(low) and used(high) - wanted > used(high) / high:
        raise ConfigError(
            f"target_flops: {wanted:g} is out of reach; the stages take {high} steps, which use {used(high):.4g} "
            f"({convention}); write their boundaries as fractions"
        )
    steps = min((low, high), key=lambda count: abs(used(count) - wanted))
    try:
        check(replace(run_of(steps), target_flops=None, target_convention=Convention.blocks))
    except ConfigError as error:
        raise ConfigError(f"target_flops: {wanted:g} takes {steps} steps, and for them {error}") from error
    return Met(run_of(steps), f"target_flops={wanted:g} ({convention})", f"train.max_steps={steps}")


def _three_stage(stage: StageConfig, steps: int, keep: Target) -> Callable[[float], StageConfig]:
    assert stage.t1 is not None and stage.t2 is not None
    t1, t2 = boundary_step(stage.t1, steps), boundary_step(stage.t2, steps)
    if keep is Target.ratio:
        share = t1 / t2 if t2 else 0.0
        return lambda x: replace(stage, t1=round(share * x * steps), t2=round(x * steps))
    if keep is Target.t1:
        return lambda x: replace(stage, t1=t1, t2=round(t1 + x * (steps - t1)))
    return lambda x: replace(stage, t1=round(x * t2), t2=t2)


def _boundaries(stage: StageConfig, steps: int) -> Callable[[float], StageConfig]:
    """All boundaries times one factor, the last one from the first step to the last."""
    ends = [boundary_step(boundary, steps) for boundary in as_list(stage.boundaries)]
    shares = [end / ends[-1] if ends[-1] else 1.0 for end in ends]
    return lambda x: replace(stage, boundaries=[round(share * x * (steps - 1)) for share in shares])


def _rates(stage: StageConfig) -> Callable[[float], StageConfig]:
    """What the rates lack to 1 in the proportion that it has, up to the least rate that there is."""
    lacking = {key: 1.0 - rate for key in ("p_h", "p_m", "p_l") if (rate := getattr(stage, key)) is not None}
    most = max(lacking.values()) or math.inf

    def at(x: float) -> StageConfig:
        rates: dict[str, Any] = {key: _rate(1.0 - x * lack / most) for key, lack in lacking.items()}
        return replace(stage, **rates)

    return at


def _inwards(cut: Callable[[float], int], value: float) -> float:
    """Four digits, cut so that what is told is within reach."""
    return cut(round(value * 1e4, 6)) / 1e4


def _rate(value: float) -> float:
    return max(_LEAST_RATE, round(value, _DIGITS))


def _written(value: Any) -> str:
    return "[" + ",".join(map(_written, value)) + "]" if isinstance(value, list) else f"{value}"
