"""How long a run is: its optimizer steps, as they are given or as many as a budget of tokens or of FLOPs affords."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from est_cli.common.errors import ConfigError
from est_cli.config.batch import batch_problems, batch_schedule, largest_step, varies
from est_cli.config.model import HF, preset_sizes
from est_cli.config.schedulers import scheduler_named
from est_cli.config.setting import range_problems, refuse
from est_cli.est.target import longest_within

if TYPE_CHECKING:
    from est_cli.config.run import RunConfig

DEFAULT_STEPS = 300
LENGTHS = ("max_steps", "max_tokens", "max_flops")
"""The keys of `train.*` that say how long a run is."""
MOST_STEPS = 2**40
"""Of a run whose steps are found by its FLOPs."""


def max_steps(config: RunConfig) -> int:
    """Optimizer steps of the run: given, or as many as its budget says, or 300.

    A budget of tokens is rounded up to whole steps, one of FLOPs down (see with_steps, whose errors it raises).
    """
    train = config.train
    if train.max_steps is None and train.max_flops is not None:
        return _steps_of_flops(config, train.max_flops)
    if train.max_tokens is not None and largest_step(train) > 0:
        return _steps_of_tokens(config, train.max_tokens)
    return DEFAULT_STEPS if train.max_steps is None else train.max_steps


def with_steps(config: RunConfig) -> RunConfig:
    """The configuration with the steps that train.max_flops affords beside it, as its config.yaml holds them.

    Raises ConfigError where that is less than a step, or other steps are given too, and for what check() finds in a
    run of any length.
    """
    from est_cli.config.resolve import check  # which needs the number of steps

    train = config.train
    if train.max_flops is None:
        return config
    refuse(range_problems(config))
    check(replace(config, train=replace(train, max_steps=MOST_STEPS, max_tokens=None, max_flops=None)))
    if train.max_tokens is not None:
        raise ConfigError("train.max_flops: the budget is given twice; leave train.max_tokens null")
    steps = _steps_of_flops(config, train.max_flops)
    if train.max_steps not in (None, steps):
        raise ConfigError(
            f"train.max_flops: the budget is given twice, and affords {steps} steps; leave train.max_steps null"
        )
    return replace(config, train=replace(train, max_steps=steps))


def _steps_of_tokens(config: RunConfig, wanted: int) -> int:
    """Where steps differ, the stages say how many there are of each, and the stages are fractions of the run."""
    train = config.train
    if not varies(train) or any(batch_problems(train)):  # which check() tells
        return -(-wanted // largest_step(train))

    def read(steps: int) -> int:
        try:
            scheduler = scheduler_named(config.scheduler.name).make(steps, config.stage)
            return batch_schedule(train, scheduler).tokens_before(steps)
        except (ValueError, TypeError):  # too short for its stages, or settings that are refused elsewhere
            return 0

    try:
        return longest_within(read, wanted - 1, MOST_STEPS) + 1
    except OverflowError:
        return -(-wanted // largest_step(train))


def _steps_of_flops(config: RunConfig, budget: float) -> int:
    """As many steps as use at most so many FLOPs (`total`), which the schedule's own ledger counts."""
    from est_cli.config.resolve import planned_ledger_of  # which needs the number of steps

    if config.model.family == HF:
        raise ConfigError(
            "train.max_flops: under model=hf the sizes are known when the model is opened; est-plan target_flops=... "
            "target_convention=total opens it and says the train.max_steps for it"
        )
    spec = preset_sizes(config.model)

    def used(steps: int) -> int:
        train = replace(config.train, max_steps=steps, max_tokens=None, max_flops=None)
        try:
            return planned_ledger_of(replace(config, train=train), spec).used.total
        except ValueError:  # too short for its stages
            return 0

    try:
        steps = longest_within(used, budget, MOST_STEPS)
    except OverflowError:
        raise ConfigError(f"train.max_flops: {budget:g} takes over {MOST_STEPS:g} steps; give fewer") from None
    if not used(steps):
        raise ConfigError(
            f"train.max_flops: {budget:g} is too little; the shortest run that its stages allow has {steps + 1} steps "
            f"and uses {used(steps + 1):.4g} FLOPs; give as many"
        )
    return steps
