"""How far an evaluation is: a live bar in a terminal, plain lines now and then everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn

from est_cli.common.bars import NO_WRAP, progress_bar
from est_cli.common.counts import hours_minutes
from est_cli.common.table import print_lines

PLAIN_EVERY_S = 60.0


class WorkProgress:
    """Counts the work that is left to do; quiet for processes other than the first."""

    def __init__(
        self, total: float, console: Console, bar: Bar | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total, self._done, self._title = total, 0.0, ""
        self._console, self._bar, self._clock = console, bar, clock
        self._begin = self._shown_at = clock()
        self._task = None if bar is None else bar.add_task("", total=total, eta="--:--")

    def begin(self, title: str) -> None:
        """Name what is done next."""
        self._title = title

    def advance(self, work: float) -> None:
        self._done += work
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=self._title, eta=self.left())
        elif self._clock() - self._shown_at >= PLAIN_EVERY_S:
            self.line(f"{self._title}: {self._done / self._total:.0%} of all, {self.left()} left")

    def line(self, text: str) -> None:
        self._shown_at = self._clock()
        print_lines(self._console, text)

    def left(self) -> str:
        """Time that the rest will take at the pace so far."""
        spent = self._clock() - self._begin
        left = max(0.0, self._total - self._done)
        return hours_minutes(spent / self._done * left if self._done else None)


@contextmanager
def progress(total: float, quiet: bool) -> Iterator[WorkProgress]:
    """On stderr until the end of the block; `total`: the work that `advance` will tell."""
    console = Console(stderr=True, quiet=quiet)
    if quiet or not console.is_terminal:
        yield WorkProgress(total, console, None)
        return
    with progress_bar(console, TextColumn("{task.fields[eta]} left", table_column=NO_WRAP)) as bar:
        yield WorkProgress(total, console, bar)
