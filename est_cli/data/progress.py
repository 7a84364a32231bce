"""How far a long piece of work is, for those who wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from est_cli.data.pieces import Advance

LINE_EVERY_S = 60.0
"""Between lines of log."""

log = logging.getLogger(__name__)


@contextmanager
def progress(what: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on a terminal's stderr; anywhere else a line of log, and another one every minute."""
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("%s", what)
        yield _lines(total, done)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda units: bar.advance(task, units)


def _lines(total: int, done: int) -> Advance:
    """Tells now and then how far it is, and how long the rest takes at the pace since the start."""
    began = told = time.monotonic()
    at_first = done

    def advance(units: int) -> None:
        nonlocal done, told
        done += units
        now = time.monotonic()
        if now - told >= LINE_EVERY_S and done > at_first:
            told, left = now, (now - began) * (total - done) / (done - at_first)
            log.info("%.0f %% tokenised, about %.0f minutes left", 100 * done / max(1, total), left / 60)

    return advance
