"""What is swept: a command whose runs are the jobs, and the numbers that become of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from est_cli.cli.command import Command, command_named
from est_cli.common.errors import ConfigError
from est_cli.config.setting import Given

Numbers = Mapping[str, Any]
"""What one job has reached, by key."""


@dataclass(frozen=True)
class Column:
    """A number of each job. Where there is also KEY_sd, the table shows it behind."""

    key: str
    heading: str | None = None
    """In the table; None: it stands in the files alone."""
    form: str = ""
    scale: float = 1.0
    """What the table multiplies it by."""
    best: Callable[[list[float]], float] | None = None
    """`min` or `max`, or None where no value is better than another."""
    needs: tuple[str, ...] = ()
    """Other numbers without which it does not compare with the same of other jobs, and is left out."""

    def value(self, numbers: Numbers) -> Any:
        return numbers.get(self.key) if all(numbers.get(key) is not None for key in self.needs) else None


class SweepRefused(ConfigError):
    """What one job shows to be wrong with the whole sweep."""


@dataclass(frozen=True)
class Program:
    """A command whose runs are the jobs. Its functions take the configuration of a job, or of what is fixed."""

    name: str
    """Of the command, without est-."""
    no_place: Mapping[str, str]
    """Keys that a command line with -m may not have, and why."""
    prefix: Callable[[Any, Collection[str]], list[str]]
    """Words that the sweep's name begins with, given the keys that are swept."""
    prepare: Callable[[Any, Given], str]
    """Given also the keys that the command line decides: what a summary.json must hold as `asked` for the job to be
    done, empty where any that is there will do. Raises an EstError for a job that cannot run, and SweepRefused."""
    columns: Callable[[Sequence[Numbers]], Sequence[Column]]
    """What the results show of jobs with these numbers."""
    objective: str
    """The number that the best job is chosen by."""
    directions: Sequence[str]
    """Which way a search may go, the usual one first: minimize, maximize."""
    numbers: Collection[str] = ()
    """Those of a summary.json that are of interest; empty: all."""
    telling: Sequence[str] = ()
    """Numbers that a table on a narrow terminal keeps beside the objective, the first of them longest."""
    repeats: str = ""
    """The key whose values repeat a job: jobs that differ in it alone are one cell. Empty: there is none."""
    every_job: Sequence[str] = ()
    """Overrides that every job is started with."""
    check_search: Callable[[Any, Collection[str]], None] = lambda config, swept: None
    """Raises ConfigError where the objective means nothing, given the keys that are swept."""
    note: str = ""
    """Stands below the table."""
    report: str = ""
    """The command that compares the jobs, given the sweep's folder; told at the end. Empty: there is none."""

    @property
    def command(self) -> Command:
        return command_named(self.name)
