"""Settings that meet a target: stages that save a wanted share of the FLOPs, or a run that uses a wanted amount.

Every scheduler has one thing that is moved: boundaries (all by one factor, so that their ratios stay) or rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.config import Convention, PlanConfig
from est_cli.config.length import MOST_STEPS, max_steps
from est_cli.config.resolve import check
from est_cli.config.schedulers import scheduler_named
from est_cli.config.schedulers.shared.scheduler import Dial
from est_cli.est import FlopsLedger
from est_cli.est.target import OutOfReach, longest_within, solve

Ledger = Callable[[PlanConfig], FlopsLedger]
"""The ledger that a run with these settings will end with."""

COARSE = 0.005
"""How far from the wanted saving the nearest possible one may be: whole heads and layers leave gaps."""


@dataclass(frozen=True)
class TargetSolution:
    """A configuration that meets its target."""

    config: PlanConfig
    request: str
    """What was asked for, as it was written."""
    settings: str
    """The overrides that make it so."""


def solve_target(config: PlanConfig, ledger: Ledger) -> TargetSolution | None:
    """The configuration with what its target asks for; None without a target. Raises ConfigError where it cannot be."""
    if config.target_saving is not None:
        return _saving(config, config.target_saving, ledger)
    if config.target_flops is not None:
        return _flops(config, config.target_flops, ledger)
    return None


def _saving(config: PlanConfig, wanted: float, ledger: Ledger) -> TargetSolution:
    name, steps, convention = config.scheduler.name, max_steps(config), config.target_convention.value
    make_dial = scheduler_named(name).dial
    assert make_dial is not None, "plan_problems() refuses a target of a scheduler that saves nothing"
    dial = make_dial(config.stage, steps, config.target_keep.value)

    def saved(x: float) -> float:
        return ledger(replace(config, stage=dial.at(x))).saved_pct(convention) / 100.0

    if config.sampling.keep_ends or config.sampling.protect is not None or config.stage.layer_rates is not None:
        dial = _fitting(dial, saved)
    try:
        x = solve(wanted, saved, dial.finest, tolerance=0.25 / steps)
    except OutOfReach as error:
        kept = f"target_keep={config.target_keep.value} " if name == "three_stage" else ""
        lowest, highest = _inwards(math.ceil, error.lowest), _inwards(math.floor, error.highest)
        raise ConfigError(
            f"target_saving: {wanted:g} is out of reach; with {kept or f'scheduler={name} '}these rates save "
            f"{lowest:g} to {max(lowest, highest):g}; choose one between, or other rates"
        ) from error
    if abs(saved(x) - wanted) > max(COARSE, 1.0 / steps):
        raise ConfigError(
            f"target_saving: {wanted:g} falls between whole units of this model; the nearest is {saved(x):.4g}"
        )
    stage = dial.at(x)
    changed = {key: value for key, value in vars(stage).items() if value != getattr(config.stage, key)}
    moved = changed or {key: value for key, value in vars(stage).items() if value is not None}
    found = " ".join(f"stage.{key}={_written(value)}" for key, value in moved.items())
    return TargetSolution(replace(config, stage=stage), f"target_saving={wanted:g} ({convention})", found)


def _fitting(dial: Dial, value: Callable[[float], float]) -> Dial:
    """The dial up to where its rates fit the model: a rate can be too low for what layers keep."""

    def fits(x: float) -> bool:
        try:
            value(x)
        except ValueError:
            return False
        return True

    low, high = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
    while high - low > dial.finest:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Dial(lambda x: dial.at(low * x), dial.finest)


def _flops(config: PlanConfig, wanted: float, ledger: Ledger) -> TargetSolution:
    """The number of steps whose FLOPs are nearest; boundaries are fractions, so they move along."""
    convention = config.target_convention.value

    def run_of(steps: int) -> PlanConfig:
        return replace(config, train=replace(config.train, max_steps=steps, max_tokens=None, max_flops=None))

    def used(steps: int) -> int:
        try:
            amount: int = getattr(ledger(run_of(steps)).used, convention)
        except ValueError:  # too short for its stages
            return 0
        return amount

    if wanted < used(1):
        raise ConfigError(
            f"target_flops: {wanted:g} is out of reach; one step uses {used(1):.4g} ({convention}); give more"
        )
    try:
        low = longest_within(used, wanted, MOST_STEPS)
    except OverflowError:
        raise ConfigError(
            f"target_flops: {wanted:g} is out of reach; it takes over {MOST_STEPS:g} steps; give fewer"
        ) from None
    high = low + 1
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
    return TargetSolution(run_of(steps), f"target_flops={wanted:g} ({convention})", f"train.max_steps={steps}")


def _inwards(rounded: Callable[[float], int], value: float) -> float:
    """Four digits, cut so that what is told is within reach."""
    return rounded(round(value * 1e4, 6)) / 1e4


def _written(value: Any) -> str:
    return "[" + ",".join(map(_written, value)) + "]" if isinstance(value, list) else f"{value}"
