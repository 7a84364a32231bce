"""The original files of GLUE, DATA_DIR/TASK/train.tsv and so on, also as .tsv.xz, to examples.

A line is a row and a tab ends a column; quotes mean nothing, and no other character ends a line. Labels are told by
what is written, columns by their names in the first line (CoLA alone has none). Whatever does not fit is a DataError
that says where.
"""

from __future__ import annotations

import codecs
import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError, reason
from est_cli.evaluation.tasks import TASKS, Example, Task

MAX_LINE = 1 << 20
"""Longest line, in bytes; the longest of GLUE's own has about 5,000."""
SCORES = (0.0, 5.0)
"""Range of the scores of STS-B."""


@dataclass(frozen=True)
class Layout:
    """How the files of one task are written."""

    folder: str
    texts: tuple[str, ...]
    """Names of the columns of text, in the order of `Task.fields`."""
    label: str
    written: Mapping[str, str] = field(default_factory=dict)
    """What stands in the label's column -> the name of the class."""
    header: tuple[str, ...] | None = None
    """Names of the columns where the first line does not tell them."""
    may_be_short: bool = False
    """Lines with too few columns are left out: QQP's train file has questions with line ends in them."""


def _numbered(task: str) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(TASKS[task].labels)}


def _named(task: str) -> dict[str, str]:
    return {name: name for name in TASKS[task].labels}


_PAIR = ("sentence1", "sentence2")
_QUESTIONS = ("question1", "question2")
_COLA = ("source", "label", "mark", "sentence")

LAYOUTS = {
    "cola": Layout("CoLA", ("sentence",), "label", _numbered("cola"), header=_COLA),
    "sst2": Layout("SST-2", ("sentence",), "label", _numbered("sst2")),
    "mrpc": Layout("MRPC", ("#1 String", "#2 String"), "Quality", _numbered("mrpc")),
    "stsb": Layout("STS-B", _PAIR, "score"),
    "qqp": Layout("QQP", _QUESTIONS, "is_duplicate", _numbered("qqp"), may_be_short=True),
    "mnli": Layout("MNLI", _PAIR, "gold_label", _named("mnli")),
    "qnli": Layout("QNLI", ("question", "sentence"), "label", _named("qnli")),
    "rte": Layout("RTE", _PAIR, "label", _named("rte")),
    "wnli": Layout("WNLI", _PAIR, "label", _numbered("wnli")),
}


def file_of(data_dir: Path, task: Task, split: str) -> Path | None:
    """The file of a split ("train", or one of `Task.dev_splits`), or None where there is none."""
    folder = data_dir / LAYOUTS[task.name].folder
    paths = (folder / f"{split}{suffix}" for suffix in (".tsv", ".tsv.xz"))
    return next((path for path in paths if path.exists()), None)


def available_tasks(data_dir: Path | None) -> list[str]:
    """The tasks with a train and a (first) dev file in the folder; without a folder all, the hub has them."""
    if data_dir is None:
        return list(TASKS)
    return [name for name, task in TASKS.items() if all(file_of(data_dir, task, s) for s in required(task))]


def required(task: Task) -> tuple[str, str]:
    """The splits without which a task is incomplete: MNLI's mismatched dev is welcome, but not asked for."""
    return "train", task.dev_splits[0]


def read_split(path: Path, task: Task) -> tuple[list[Example], int]:
    """All rows of one file, in its order, and how many broken lines were left out. Raises DataError."""
    layout = LAYOUTS[task.name]
    lines = _lines(path)
    header = layout.header or _header(lines, path)
    texts = [_place(header, name, path) for name in layout.texts]
    label = _place(header, layout.label, path)
    examples, skipped = [], 0
    for number, values in lines:
        where = f"{path}:{number}"
        if len(values) < len(header) and layout.may_be_short:
            skipped += 1
        elif len(values) != len(header):
            raise DataError(f"{where}: has {len(values)} columns, must have {len(header)} with tabs between them")
        else:
            examples.append(_example(task, layout, [values[i] for i in texts], values[label], where))
    return examples, skipped


def _example(task: Task, layout: Layout, texts: Sequence[str], written: str, where: str) -> Example:
    if not any(text.strip() for text in texts):
        raise DataError(f"{where}: there is no text in {' and '.join(map(repr, layout.texts))}")
    column = f"column {layout.label!r}"
    if task.is_regression:
        return Example(tuple(texts), read_score(written, f"{where}, {column}"))
    if written not in layout.written:
        raise unknown_label(written, tuple(layout.written), f"{where}, {column}")
    return Example(tuple(texts), float(task.labels.index(layout.written[written])))


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
    told = "means that it is hidden, as in test files; train and dev need labels" if hidden else "is not known"
    return DataError(f"{where}: the label {str(written)[:40]!r} {told}; it must be {' or '.join(expected)}")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number (from 1) and columns of each line that is not empty."""
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if text := _decoded(line.removeprefix(codecs.BOM_UTF8 if number == 1 else b""), f"{path}:{number}"):
                    yield number, text.split("\t")
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{path}: cannot be read to the end ({reason(error)})") from error


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


def _place(header: Sequence[str], name: str, path: Path) -> int:
    if header.count(name) != 1:
        told = "twice" if name in header else "missing"
        found = ", ".join(map(repr, header))[:200]
        raise DataError(f"{path}:1: the column {name!r} is {told}; the first line names {found}")
    return header.index(name)
