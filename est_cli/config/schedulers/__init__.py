"""Sampling schedulers: one small file each, named as `scheduler=NAME` names it. A new file is a new scheduler.

What it is made of is shared/scheduler.py; its settings stand in conf/scheduler/NAME.yaml. Those of other people are
registered, or brought by the entry points `est_cli.schedulers` of installed packages, and carry their settings along.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from est_cli.common.errors import ConfigError, reason
from est_cli.common.plugins import Origin, Registry
from est_cli.config.schedulers.shared.scheduler import Scheduler
from est_cli.est.schedule import SamplingScheduler

if TYPE_CHECKING:
    from est_cli.config.stage import StageConfig

__all__ = [
    "SCHEDULERS",
    "Scheduler",
    "is_outside",
    "origin_of",
    "outside_names",
    "register_scheduler",
    "scheduler_named",
]

SCHEDULERS: tuple[str, ...] = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg))
"""The names of est's own schedulers; their files are read when they are asked for."""

_others = Registry("scheduler", "est_cli.schedulers", Scheduler, SCHEDULERS)


def register_scheduler(name: str, scheduler: Scheduler) -> None:
    """Make a scheduler known in this process. ValueError for a name that est has itself.

    The processes that a command starts do not see it; an entry point in the group `est_cli.schedulers` is for all.
    """
    _others.register(name, scheduler)


def is_outside(name: object) -> bool:
    """Whether somebody else than est has a scheduler of this name. Nothing is loaded."""
    return _others.knows(name)


def outside_names() -> list[str]:
    """The names that is_outside() has."""
    return _others.names()


def origin_of(name: object) -> Origin | None:
    """The package that brings the scheduler of this name; None for est's own and for what a program has registered."""
    return _others.origin(name)


def scheduler_named(name: str) -> Scheduler:
    """The scheduler of this name, of SCHEDULERS or one that is_outside() has. ConfigError where it cannot be loaded."""
    if name in SCHEDULERS:
        return _own(name)
    try:
        return _held_to_its_word(name, _others.get(name))
    except ValueError as error:
        raise ConfigError(f"scheduler.name: {error}") from error


def _held_to_its_word(name: str, scheduler: Scheduler) -> Scheduler:
    """Somebody else's scheduler, whose make() gives what it says or raises ValueError."""

    def make(steps: int, stage: StageConfig) -> SamplingScheduler:
        try:
            made: object = scheduler.make(steps, stage)
        except (ValueError, ConfigError):
            raise
        except Exception as error:  # a mistake in it
            raise ValueError(f"scheduler={name}: its make() raised {type(error).__name__}: {reason(error)}") from error
        if not isinstance(made, SamplingScheduler):
            raise ValueError(f"scheduler={name}: its make() gave {type(made).__name__}; a SamplingScheduler is needed")
        if made.max_steps != steps:
            raise ValueError(f"scheduler={name}: its stages end at step {made.max_steps}; the run has {steps}")
        return made

    return replace(scheduler, make=make)


@cache
def _own(name: str) -> Scheduler:
    scheduler: Scheduler = import_module(f"{__name__}.{name}").SCHEDULER
    return scheduler
