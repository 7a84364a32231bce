"""Sampling schedulers: one small file each, named as `scheduler=NAME` names it. A new file is a new scheduler.

What it is made of is shared/scheduler.py; its settings stand in conf/scheduler/NAME.yaml.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from est_cli.config.schedulers.shared.scheduler import Scheduler

SCHEDULERS: tuple[str, ...] = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg))
"""The names of all schedulers; their files are read when they are asked for."""


@cache
def scheduler_named(name: str) -> Scheduler:
    """The scheduler of this name, which is one of SCHEDULERS."""
    scheduler: Scheduler = import_module(f"{__name__}.{name}").SCHEDULER
    return scheduler
