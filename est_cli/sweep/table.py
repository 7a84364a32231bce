"""The table at the end of a sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from est_cli.sweep.rows import Row, Status, best_of

_COLUMNS = {
    "steps": ("steps", ",d"),
    "val loss": ("final_val_loss", ".4f"),
    "perplexity": ("perplexity", ".2f"),
    "FLOPs saved: blocks %": ("flops_saved_pct_blocks", ".2f"),
    "total %": ("flops_saved_pct_total", ".2f"),
    "time s": ("time_s", ".1f"),
    "saved %": ("time_saved_pct", ".2f"),
}
"""Heading -> (key of summary.json, format)."""
_UNLIMITED = 10_000


def print_table(sweep: str, rows: Sequence[Row], console: Console | None = None) -> None:
    """Write the table to stdout, `*` at the lowest validation loss, and below it why jobs were skipped or failed.

    `sweep`: its folder. Where stdout is no terminal the table has no frames and is as wide as it needs.
    """
    console = console or (Console() if sys.stdout.isatty() else Console(width=_UNLIMITED))
    console.print(_table(sweep, rows, plain=not console.is_terminal), highlight=False)
    for row in rows:
        if row.reason:
            told = f"job {row.number} {_status(row)}: {row.reason}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)


def _table(sweep: str, rows: Sequence[Row], plain: bool) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    words = [key.rpartition(".")[2] for key in keys]
    headings = [word if words.count(word) == 1 else key for word, key in zip(words, keys, strict=True)]
    table = Table(title=Text(f"Sweep {sweep}"), title_justify="left", box=None if plain else box.SIMPLE_HEAD)
    for heading in ["job", *headings, "status", *_COLUMNS, "folder"]:
        table.add_column(heading, justify="left" if heading in ("status", "folder") else "right", overflow="fold")
    best = best_of(rows)
    for row in rows:
        values = [row.swept.get(key, "-") for key in keys]
        cells = [str(row.number), *values, _status(row), *_shown(row.numbers, row is best), row.name]
        table.add_row(*map(Text, cells))
    return table


def _status(row: Row) -> str:
    return f"{row.status} ({row.exit_code})" if row.status is Status.failed else str(row.status)


def _shown(numbers: Mapping[str, Any], best: bool) -> list[str]:
    cells = {}
    for key, form in _COLUMNS.values():
        value = numbers.get(key)
        cells[key] = "-" if value is None else format(value, form)
    if best:
        cells["final_val_loss"] = f"*{cells['final_val_loss']}"
    return list(cells.values())
