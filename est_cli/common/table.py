"""Tables: one look on a terminal for all commands, and as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000
"""Characters of a line in a file or a pipe, which has room for everything."""


def table_console() -> Console:
    """stdout, as wide as the terminal; without limit where it is none."""
    return Console() if sys.stdout.isatty() else Console(width=UNLIMITED)


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    words: Collection[str] = (),
    plain: bool = False,
    fold: Collection[str] | None = None,
    widths: Mapping[str, int] | None = None,
    total: Sequence[str] | None = None,
) -> Table:
    """Whatever comes in is text, nothing of it markup. Columns are known by their headings.

    `words`: those on the left, the others are numbers. `fold`: those that go on in a further line where there is no
    room (None: all); the others are cut off. `total`: a last row, set off. `plain`: no frame, as in a file. Without any
    heading there is no head.
    """
    frame = None if plain else box.SIMPLE_HEAD
    made = Table(title=Text(title) if title else None, title_justify="left", box=frame, pad_edge=False)
    made.show_header = any(headings)
    for heading in headings:
        made.add_column(
            Text(heading),
            justify="left" if heading in words else "right",
            overflow="fold",
            no_wrap=fold is not None and heading not in fold,
            width=(widths or {}).get(heading),
        )
    for row in rows:
        made.add_row(*map(Text, row))
    if total is not None:
        made.add_section()
        made.add_row(*map(Text, total))
    return made


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A heading for every key that any row has, in the order in which they come; empty where a row has none."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
