"""The table at the end of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from est_cli.cli.sweep.program import Column, Program
from est_cli.cli.sweep.rows import Row, Status, best_of, columns_of
from est_cli.common.table import table, table_console


def print_table(program: Program, sweep: str, rows: Sequence[Row], console: Console | None = None) -> None:
    """Write the table to stdout, `*` at the best values, and below it why jobs were skipped or failed.

    `sweep`: its folder. Where stdout is no terminal the table has no frames and is as wide as it needs.
    """
    console = console or table_console()
    columns = columns_of(program, rows)
    console.print(_table(sweep, rows, columns, plain=not console.is_terminal), highlight=False)
    if program.note and any(column.key == program.objective for column in columns):
        console.print(program.note, highlight=False, markup=False, soft_wrap=True)
    for row in rows:
        if row.reason:
            line = f"job {row.number} {_status(row)}: {row.reason}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(sweep: str, rows: Sequence[Row], columns: Sequence[Column], plain: bool) -> Table:
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    words = [key.rpartition(".")[2] for key in keys]
    headings = [word if words.count(word) == 1 else key for word, key in zip(words, keys, strict=True)]
    shown = {column.heading: column for column in columns if column.heading is not None}
    best = {heading: best_of(column, rows) for heading, column in shown.items()}
    lines = []
    for row in rows:
        values = [row.swept.get(key, "-") for key in keys]
        numbers = [_shown(row, column, row is best[heading]) for heading, column in shown.items()]
        lines.append([str(row.number), *values, _status(row), *numbers, row.name])
    columns_shown = ["job", *headings, "status", *shown, "folder"]
    return table(columns_shown, lines, title=f"Sweep {sweep}", words=["status", "folder"], plain=plain)


def _status(row: Row) -> str:
    return f"{row.status} ({row.exit_code})" if row.status is Status.failed else str(row.status)


def _shown(row: Row, column: Column, best: bool) -> str:
    value, spread = column.value(row.numbers), row.numbers.get(f"{column.key}_sd")
    if value is None:
        return "-"
    text = format(column.scale * value if column.scale != 1 else value, column.form)
    text += "" if spread is None else f" ± {format(column.scale * spread, column.form)}"
    return f"*{text}" if best else text
