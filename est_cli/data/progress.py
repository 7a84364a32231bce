"""How far a long piece of work is, for those who wait."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from est_cli.data.pieces import Advance, quiet

log = logging.getLogger(__name__)


@contextmanager
def progress(what: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on a terminal's stderr; anywhere else one line of log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("%s", what)
        yield quiet
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda units: bar.advance(task, units)
