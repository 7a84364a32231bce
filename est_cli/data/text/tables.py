"""Rows of files that are read row by row but are no .jsonl: .json, .csv, .tsv and .arrow.

.json: one array of objects, or objects one after the other, on a line each or not. .csv: quoted as RFC 4180 says;
.tsv: without quotes, as IANA registers it; both with the names of their columns in the first line. .arrow: the file and
the stream form, as `datasets` and others write it.

Each function yields (where, row): `file:row`, the first row being 1, and a dict, or whatever the JSON holds; where a
row cannot be read but those behind it can, the RowError that says why.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Literal

from est_cli.common.errors import DataError, reason
from est_cli.data.text.arrow_batches import CheckedMessages
from est_cli.data.text.pieces import MAX_LINE, RowError, Wanted

CHUNK = 256 * 1024
"""Bytes of a .json file that are read at once."""

_BLANK = re.compile(r"[ \t\r\n]*")
_NO_UTF8 = re.compile("[\udc80-\udcff]")
"""What a byte that is no UTF-8 is decoded to, so that the rows behind it can be read; nothing else is."""

Row = tuple[str, Any]


def json_rows(file: BinaryIO, name: str) -> Iterator[Row]:
    """The elements of the array that the file is, or its values. Raises DataError."""
    text = _JsonText(file, name)
    is_array = text.take("[")
    while not text.at_end() and not (is_array and text.take("]")):
        if is_array and text.row and not text.take(","):
            raise DataError(f"{text.where}: not JSON (no comma or bracket behind the row)")
        value = text.value()
        yield text.where, value
    if is_array and text.last != "]":
        raise DataError(f"{text.where}: not JSON (the array is not closed)")
    if not text.at_end():
        raise DataError(f"{text.where}: not JSON (there is more behind the array)")


class _JsonText:
    """JSON that is decoded as far as it is needed: about as much of it is held as a row takes."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.row = 0
        """Of the value that was read last; 0 before the first."""
        self.last = ""
        """What take() took last."""
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._ended = "", 0, False

    @property
    def where(self) -> str:
        return f"{self._name}:{max(self.row, 1)}"

    def take(self, sign: str) -> bool:
        """Whether `sign` comes next, blanks aside; it is then behind us."""
        if self.at_end() or self._text[self._at] != sign:
            return False
        self._at += 1
        self.last = sign
        return True

    def at_end(self) -> bool:
        """Whether there are only blanks left."""
        while True:
            found = _BLANK.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text) or self._ended:
                return self._at == len(self._text)
            self._more(CHUNK)

    def value(self) -> Any:
        """The next value, or the RowError that is in its place. Raises DataError."""
        self.row += 1
        self.at_end()
        while True:
            held = len(self._text) - self._at
            try:
                start, (value, self._at) = self._at, json.JSONDecoder().raw_decode(self._text, self._at)
                return _no_utf8(self._text[start : self._at]) or value
            except json.JSONDecodeError as error:
                if self._ended:
                    raise DataError(f"{self.where}: not JSON ({error.msg})") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
                raise DataError(f"{self.where}: not JSON that can be read ({type(error).__name__})") from error
            if held > MAX_LINE:
                raise DataError(f"{self.where}: the row is not JSON, or longer than {MAX_LINE} bytes")
            self._more(max(CHUNK, held))  # twice as much each time: a long row is not decoded from its start too often

    def _more(self, size: int) -> None:
        data = self._file.read(size)
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0


def _no_utf8(text: str) -> RowError | None:
    found = _NO_UTF8.search(text)
    return None if found is None else RowError(f"not UTF-8 (byte 0x{ord(found[0]) & 0xFF:02x})")


def csv_rows(file: BinaryIO, name: str, tabs: bool) -> Iterator[Row]:
    """The rows under the header, as dicts of strings. Raises DataError."""
    lines = _Lines(file, name)
    csv.field_size_limit(MAX_LINE)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    rows = csv.reader(lines, delimiter="\t" if tabs else ",", quoting=quoting, strict=True)
    header: list[str] | None = None
    try:
        for row in rows:
            lines.held = 0
            if not row:
                continue
            if header is not None:
                yield f"{name}:{lines.number}", _as_dict(header, row)
            elif error := _no_utf8("".join(row)):
                raise DataError(f"{name}:{lines.number}: {error}")
            else:
                header = row
    except csv.Error as error:
        raise DataError(f"{name}:{lines.number}: not readable as {'.tsv' if tabs else '.csv'} ({error})") from error


def _as_dict(header: list[str], row: list[str]) -> Any:
    if len(row) != len(header):
        return RowError(f"the row has {len(row)} fields, the first line names {len(header)}")
    return _no_utf8("".join(row)) or dict(zip(header, row, strict=True))


class _Lines:
    """Lines of text with their ends; as much of them at once as a row may take."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.number = 0
        self.held = 0
        """Bytes since the last row began."""
        self._file, self._name = file, name

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.held += len(line)
        if self.held > MAX_LINE:
            raise DataError(
                f"{self._name}:{self.number}: the row is longer than {MAX_LINE} bytes; is a quote never closed?"
            )
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        return line.decode("utf-8", "surrogateescape")


def arrow_rows(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[Row]:
    """The rows, of the columns that matter. Raises DataError."""
    import pyarrow as pa  # a second to import, and only these files need it
    import pyarrow.ipc as ipc

    try:
        reader = ipc.open_stream(pa.PythonFile(CheckedMessages(file, name), mode="r"))
        columns = wanted.columns(reader.schema.names, name)
        row = 0
        for batch in reader:
            read = [batch.column(column) for column in columns]
            for column in read:
                _check_bounds(column)
            for values in zip(*read, strict=True):
                row += 1
                yield f"{name}:{row}", values_of(columns, values)
    except (pa.ArrowException, pa.ArrowMemoryError, MemoryError) as error:
        raise DataError(f"{name}: not readable as .arrow ({reason(error)})") from error


def _check_bounds(column: Any) -> None:
    """Raise ArrowInvalid where a value would lie outside of what was read: pyarrow looks for it there all the same.

    What is no UTF-8 is an error of its row, and none here.
    """
    import pyarrow as pa

    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
    column.validate(full=False)
    (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


def values_of(columns: Sequence[str], values: Iterable[Any]) -> Any:
    """A row of Arrow's values as a dict, or the RowError that is in its place."""
    try:
        return {column: value.as_py() for column, value in zip(columns, values, strict=True)}
    except UnicodeDecodeError:
        return RowError("the text is not UTF-8")
