"""The bar of work that is counted, one look for all commands; what training shows is tracking/panel.py."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
from rich.table import Column

WIDTH = 20
NO_WRAP = Column(no_wrap=True)
"""For a column of numbers."""


def progress_bar(console: Console, left: ProgressColumn) -> Progress:
    """What is done, a bar, the percentage and `left` (its table_column NO_WRAP), off the screen at the end.

    Where there is little room the words go on below; a number is never cut.
    """
    words = TextColumn("{task.description}", table_column=Column(overflow="fold"), markup=False)
    share = TaskProgressColumn(table_column=NO_WRAP)
    return Progress(words, BarColumn(WIDTH), share, left, console=console, transient=True)
