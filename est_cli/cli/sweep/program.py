"""What is swept: a command whose runs are the jobs, and the numbers that become of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from est_cli.config import EvalConfig, RunConfig

Config = RunConfig | EvalConfig
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


@dataclass(frozen=True)
class Grammar:
    """What a command line with -m may say."""

    command: str
    """`train` stands for est-train, conf/train.yaml and est_cli.train."""
    schema: type[Config]
    no_place: Mapping[str, str]
    """Keys that a command line with -m may not have, and why."""

    @property
    def name(self) -> str:
        return f"est-{self.command}"

    @property
    def module(self) -> str:
        return f"est_cli.{self.command}"


@dataclass(frozen=True)
class Program(Grammar):
    """A command that can be swept. Its functions take the composed configuration of a job, or of what is fixed."""

    every_job: Sequence[str]
    """Overrides that every job is started with."""
    lead: Callable[[Any, Collection[str]], list[str]]
    """Words that the sweep's name begins with, given the keys that are swept."""
    check: Callable[[Any], object]
    """Raises an EstError for a job that cannot run."""
    check_started: Callable[[Any, set[str]], None]
    """Raises ConfigError, which refuses the whole sweep, for a job that was started in another way."""
    asked: Callable[[Any], str] | None
    """What a summary.json must hold as `asked` for the job to be done; None where any that is there will do."""
    numbers: Callable[[Numbers], dict[str, Any]]
    """Those of a summary.json that the results show."""
    columns: Callable[[Sequence[Numbers]], Sequence[Column]]
    """What the results show of jobs with these numbers."""
    objective: str
    """The number that the best job is chosen by."""
    directions: Sequence[str]
    """Which way a search may go, the usual one first: minimize, maximize."""
    check_search: Callable[[Any, Collection[str]], None]
    """Raises ConfigError where the objective means nothing, given the keys that are swept."""
    note: str = ""
    """Told below the table."""
