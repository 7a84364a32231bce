"""One file of a GLUE task to examples, in the layout of GLUE's own files or in that of the hub, by its suffix.

.tsv: a line is a row and a tab ends a column; quotes mean nothing, and no other character ends a line. .csv is quoted
as RFC 4180 says, .jsonl has an object a line; all three also as .xz and .gz. .parquet is what the hub has, which tells
what its classes are called.

Columns are told by their names (of CoLA's .tsv, alone, the first line does not tell them), labels by what is written:
names of classes, and the numbers that GLUE or, in its layout, the hub gives them. Whatever does not fit is a DataError
that says where.
"""

from __future__ import annotations

import codecs
import gzip
import json
import lzma
import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from est_cli.common.errors import DataError, reason
from est_cli.data.text.parquet_pages import largest_page
from est_cli.data.text.pieces import RowError
from est_cli.data.text.tables import Row, csv_rows
from est_cli.evaluation.glue import HUB_LABEL, HUB_LAYOUTS, LAYOUTS, Example, Layout, Task

MAX_LINE = 1 << 20
"""Longest line, in bytes; the longest of GLUE's own has about 5,000."""
SCORES = (0.0, 5.0)
"""Range of the scores of STS-B."""


def read_split(path: Path, task: Task) -> tuple[list[Example], int]:
    """All rows of one file, in its order, and how many broken lines were left out. Raises DataError."""
    kind = next(suffix for suffix in reversed(path.suffixes) if suffix not in (".xz", ".gz"))
    try:
        with _opened(path) as file:
            if kind == ".tsv":
                return _read_tsv(file, path, task)
            if kind == ".parquet":
                return _read_parquet(file, path, task), 0
            rows = csv_rows(file, str(path), tabs=False) if kind == ".csv" else _json_rows(file, path)
            return [_row_example(row, task, where) for where, row in rows], 0
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read to the end ({reason(error)})") from error


def _opened(path: Path) -> BinaryIO:
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    return cast(BinaryIO, opener(path, "rb"))


def _layout_of(columns: Collection[str], layouts: Sequence[Layout]) -> Layout:
    """The first of `layouts` all of whose columns are there, or else the first."""
    return next((each for each in layouts if all(name in columns for name in each.columns)), layouts[0])


def _read_tsv(file: BinaryIO, path: Path, task: Task) -> tuple[list[Example], int]:
    lines = _lines(file, path)
    header = LAYOUTS[task.name].header or _header(lines, path)
    layout = _layout_of(header, (LAYOUTS[task.name], HUB_LAYOUTS[task.name]))
    texts = [_column(header, name, path) for name in layout.texts]
    label = _column(header, layout.label, path)
    examples, skipped = [], 0
    for number, values in lines:
        where = f"{path}:{number}"
        if len(values) < len(header) and layout.may_be_short:
            skipped += 1
        elif len(values) != len(header):
            raise DataError(f"{where}: has {len(values)} columns, must have {len(header)} with tabs between them")
        else:
            examples.append(_file_example(task, layout, [values[i] for i in texts], values[label], where))
    return examples, skipped


def _file_example(task: Task, layout: Layout, texts: Sequence[Any], written: Any, where: str) -> Example:
    if not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        raise DataError(f"{where}: there is no text in {' and '.join(map(repr, layout.texts))}")
    column = f"column {layout.label!r}"
    if task.is_regression:
        return Example(tuple(texts), read_score(written, f"{where}, {column}"))
    if str(written) not in layout.written:
        raise unknown_label(written, tuple(layout.written), f"{where}, {column}")
    return Example(tuple(texts), float(task.labels.index(layout.written[str(written)])))


def read_score(written: Any, where: str) -> float:
    """The score of a pair of sentences. Raises DataError.

    To six digits: the hub has scores in single precision, where 2.4 is 2.4000000954.
    """
    try:
        score = float(f"{float(written):.6g}")
    except (TypeError, ValueError):
        score = math.nan
    if SCORES[0] <= score <= SCORES[1]:
        return score
    raise unknown_label(written, ("a number from 0 to 5",), where)


def unknown_label(written: Any, expected: Sequence[str], where: str) -> DataError:
    """What to raise for a label that is none of `expected`."""
    hidden = str(written) in ("-1", "-1.0")
    problem = "means that it is hidden, as in test files; train and dev need labels" if hidden else "is not known"
    return DataError(f"{where}: the label {str(written)[:40]!r} {problem}; it must be {' or '.join(expected)}")


def _row_example(row: Any, task: Task, where: str) -> Example:
    if isinstance(row, RowError):
        raise DataError(f"{where}: {row}") from row
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, this one is of type {type(row).__name__}")
    layout = _layout_of(row, (HUB_LAYOUTS[task.name], LAYOUTS[task.name]))
    missing = [name for name in layout.columns if name not in row]
    if missing:
        raise DataError(f"{where}: the column {missing[0]!r} is missing; there are {', '.join(map(repr, row))[:200]}")
    return _file_example(task, layout, [row[name] for name in layout.texts], row[layout.label], where)


def _json_rows(file: BinaryIO, path: Path) -> Iterator[Row]:
    for number, text in _texts(file, path):
        where = f"{path}:{number}"
        try:
            yield where, json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({reason(error)})") from error


def _read_parquet(file: BinaryIO, path: Path, task: Task) -> list[Example]:
    import datasets  # a second to import, and only these files need it
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        names = [name for name in HUB_LAYOUTS[task.name].columns if name in table.schema_arrow.names]
        for number in range(table.num_row_groups):
            with path.open("rb") as headers:
                largest_page(headers, table.metadata.row_group(number), names, str(path))
        read = table.read(columns=names)
        return examples_of(datasets.Dataset(read), task, str(path))
    except (pa.ArrowException, pa.ArrowMemoryError) as error:
        raise DataError(f"{path}: not readable as parquet ({reason(error)})") from error


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and columns of each line that is not empty."""
    return ((number, text.split("\t")) for number, text in _texts(file, path))


def _texts(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line that is not empty."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
        if text := _decoded(line.removeprefix(codecs.BOM_UTF8 if number == 1 else b""), f"{path}:{number}"):
            yield number, text


def _decoded(line: bytes, where: str) -> str:
    if len(line) > MAX_LINE:
        raise DataError(f"{where}: the line is longer than {MAX_LINE} bytes")
    if b"\0" in line:
        raise DataError(f"{where}: has a NUL byte, so this is no UTF-8 text")
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte 0x{line[error.start]:02x})") from error


def _header(lines: Iterator[tuple[int, list[str]]], path: Path) -> Sequence[str]:
    for _, names in lines:
        return names
    raise DataError(f"{path}: is empty")


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if header.count(name) != 1:
        problem = "twice" if name in header else "missing"
        found = ", ".join(map(repr, header))[:200]
        raise DataError(f"{path}:1: the column {name!r} is {problem}; the first line names {found}")
    return header.index(name)


def examples_of(data: Any, task: Task, where: str) -> list[Example]:
    """The rows of a `datasets.Dataset`. Classes are told by their names, never by their numbers. Raises DataError."""
    missing = [name for name in (*task.fields, HUB_LABEL) if name not in data.column_names]
    if missing:
        raise DataError(f"{where}: the column {missing[0]!r} is missing; there are {', '.join(data.column_names)}")
    classes = _class_names(data, task, where)
    columns = data.select_columns([*task.fields, HUB_LABEL]).to_dict()
    rows = zip(*(columns[name] for name in (*task.fields, HUB_LABEL)), strict=True)
    return [_hub_example(task, row[:-1], row[-1], classes, f"{where}:{at}") for at, row in enumerate(rows, start=1)]


def _class_names(data: Any, task: Task, where: str) -> Sequence[str] | None:
    """What the numbers in the label's column mean; None for a regression."""
    names = getattr(data.features[HUB_LABEL], "names", None)
    if (names is None) != task.is_regression or (names is not None and sorted(names) != sorted(task.labels)):
        expected = "scores" if task.is_regression else f"the classes {', '.join(task.labels)}"
        found = f"the classes {', '.join(names)}" if names is not None else "numbers without names"
        raise DataError(f"{where}: column {HUB_LABEL!r} has {found}, must have {expected}")
    return None if names is None else tuple(names)


def _hub_example(task: Task, texts: Sequence[Any], label: Any, classes: Sequence[str] | None, where: str) -> Example:
    if not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        raise DataError(f"{where}: there is no text in {' and '.join(map(repr, task.fields))}")
    column = f"{where}, column {HUB_LABEL!r}"
    if classes is None:
        return Example(tuple(texts), read_score(label, column))
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise unknown_label(label, classes, column)
    return Example(tuple(texts), float(task.labels.index(classes[label])))
