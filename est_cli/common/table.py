"""Tables: one look on a terminal for all commands, and as CSV."""

from __future__ import annotations

import csv
import io
import sys
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from est_cli.common.wrapping import at_words

UNLIMITED = 10_000
"""Characters of a line in a file or a pipe, which has room for everything."""


LONGEST_WORD = 16
"""Words are cut into pieces of this length at most, where a terminal is very narrow."""


def table_console() -> Console:
    """stdout, as wide as the terminal; without limit where it is none."""
    return Console() if sys.stdout.isatty() else Console(width=UNLIMITED)


class WholeTable(Table):
    """A table that fits: where there is little room its headings are broken, or the cells of a row stand in lines."""

    def __init__(self, headings: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._headings, self._rows = headings, list[Sequence[str]]()

    def add(self, row: Sequence[str]) -> None:
        """One more row."""
        self.add_row(*map(Text, row))
        self._rows.append(row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.fits(options.max_width) or len(self.columns) < 2:
            self._narrow(options.max_width)
            yield from super().__rich_console__(console, options.update_width(max(options.max_width, self._least())))
            return
        yield from ([Text(str(self.title), style="italic")] if self.title else [])
        for row in self._rows:
            yield from _stacked(self._headings, row)

    def fits(self, room: int) -> bool:
        """Whether each row stands on one line of `room` columns, or more where words may be broken."""
        if self._least() > room:
            self._break_headings(room)
        return self._least() <= room

    def _least(self) -> int:
        """Columns of the terminal that it takes."""
        return sum((column.min_width or 1) + 3 for column in self.columns) + 1

    def least_readable(self) -> int:
        """The same, where no word of a heading is broken."""
        words = [max([1, *map(cell_len, heading.split())]) for heading in self._headings]
        return sum(max(column.min_width or 1, word) + 3 for column, word in zip(self.columns, words, strict=True)) + 1

    def _narrow(self, room: int) -> None:
        """Take from the widest column what is too much: down to whole words of headings, then to what cells need.

        rich takes more from a column than its min_width allows, and is then wider than the terminal.
        """
        hard = [column.min_width or 1 for column in self.columns]
        words = [max([0, *map(cell_len, str(column.header).split())]) for column in self.columns]
        widths = [self._widest(number) for number in range(len(self.columns))]
        for least in ([*map(max, hard, words)], hard):
            while sum(widths) + 3 * len(widths) + 1 > room:
                spare = [number for number, width in enumerate(widths) if width > least[number]]
                if not spare:
                    break
                widths[max(spare, key=lambda number: widths[number])] -= 1
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width

    def _widest(self, number: int) -> int:
        """What a column takes where nothing is broken."""
        column = self.columns[number]
        cells = [row[number] for row in self._rows]
        return column.width or max([1, *map(cell_len, [*str(column.header).splitlines(), *cells])])

    def _break_headings(self, room: int) -> None:
        """Headings of columns whose cells stay on one line go on in further lines, in as few as `room` asks for."""
        for lines in range(2, max(len(heading.split()) for heading in self._headings) + 1):
            for number, column in enumerate(self.columns):
                if column.no_wrap:
                    parts = _in_lines(self._headings[number], lines)
                    cells = [row[number] for row in self._rows]
                    column.header = Text("\n".join(parts))
                    column.min_width = max(map(cell_len, [*parts, *cells]), default=None)
            if self._least() <= room:
                return


def _in_lines(heading: str, lines: int) -> list[str]:
    """The heading in that many lines or fewer, as narrow as can be; words stay whole."""
    for width in range(max(map(len, heading.split()), default=0), len(heading)):
        parts = textwrap.wrap(heading, width, break_long_words=False, break_on_hyphens=False)
        if len(parts) <= lines:
            return parts
    return [heading]


def _stacked(headings: Sequence[str], row: Sequence[str]) -> Iterator[Text]:
    """A row as lines, `heading  cell` each below the first two words; what is empty is left out."""
    width = max(map(cell_len, headings[1:]))
    yield Text(f" {headings[0]} {row[0]}".rstrip(), style="bold")
    for heading, cell in zip(headings[1:], row[1:], strict=True):
        if cell:
            yield Text(f"   {heading:<{width}}  {cell}")


def print_whole(console: Console, shown: RenderableType) -> None:
    """Print without cutting off what is wider than the terminal."""
    console.print(shown, highlight=False, soft_wrap=True)


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
) -> WholeTable:
    """Whatever comes in is text, nothing of it markup. Columns are known by their headings.

    `words`: those on the left, the others are numbers, of which nothing is ever cut: where a terminal is too narrow for
    them, the cells of a row stand one below the other. `fold`: columns that go on in a further line where there is no
    room (None: all).
    `total`: a last row, set off. `plain`: no frame, as in a file. Without any heading there is no head.
    """
    frame = None if plain else box.SIMPLE_HEAD
    made = WholeTable(headings, title=Text(title) if title else None, title_justify="left", box=frame, pad_edge=False)
    made.show_header = any(headings)
    for number, heading in enumerate(headings):
        folds, left = fold is None or heading in fold, heading in words
        cells = [row[number] for row in (*rows, *([] if total is None else [total]))]
        whole = [word[:LONGEST_WORD] for cell in cells for word in cell.split()] if left else cells
        whole += [] if folds else [heading]
        made.add_column(
            Text(heading),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not folds,
            width=(widths or {}).get(heading),
            min_width=max(map(cell_len, whole), default=None),
        )
    for row in rows:
        made.add(row)
    if total is not None:
        made.add_section()
        made.add(total)
    return made


def that_fits(
    headings: Sequence[str], rows: Sequence[Sequence[str]], room: int, spare: Sequence[str], **options: Any
) -> tuple[Table, list[str]]:
    """The table without as few of the columns `spare`, the first of them first, as it takes for rows to stand on a line
    of `room` columns below headings of whole words; and the headings that were left out. `options`: see `table`."""
    for count in range(len(spare) + 1):
        kept = [number for number, heading in enumerate(headings) if heading not in spare[:count]]
        cells = [[row[number] for number in kept] for row in rows]
        made = table([headings[number] for number in kept], cells, **options)
        if made.least_readable() <= room:
            break
    return made, [*spare[:count]]


def print_lines(console: Console, *lines: str) -> None:
    """Text outside of tables, nothing of it markup. On a terminal a long line goes on below between two words."""
    for line in lines:
        shown = at_words(line, console.width) if console.is_terminal else line
        console.print(shown, markup=False, highlight=False, soft_wrap=True)


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A heading for every key that any row has, in the order in which they come; empty where a row has none."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
