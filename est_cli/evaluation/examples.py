"""The examples of a GLUE task, from its original files or from the hub, in an order that depends on nothing but them.

The rows stand in the order of a hash of their content. So another order of the same rows in the files, or of the class
names in a data set, changes no result, and any prefix is a fair subset even where a file is sorted by label.

Files are DATA_DIR/TASK/train.tsv and so on, also as .tsv.xz. A line is a row and a tab ends a column; quotes mean
nothing, and no other character ends a line. Labels are told by what is written, columns by their names in the first
line (CoLA alone has none). Whatever does not fit is a DataError that says where.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import lzma
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError, reason
from est_cli.data.hub_access import HUB_TIMEOUT_S, require_hub
from est_cli.evaluation.glue import LAYOUTS, Example, Layout, Task, file_of, missing_file, required

MAX_LINE = 1 << 20
"""Longest line, in bytes; the longest of GLUE's own has about 5,000."""
SCORES = (0.0, 5.0)
"""Range of the scores of STS-B."""
HUB_NAME = "nyu-mll/glue"
DATA_KEY = "eval.data_dir"
HUB_LABEL = "label"


@dataclass(frozen=True)
class TaskData:
    """A task's examples, as they are used."""

    task: Task
    train: list[Example]
    dev: dict[str, list[Example]]
    """By dev split, those of `Task.dev_splits` that are there; always complete."""
    source: str
    """Where the examples come from, and how many broken lines were left out, as the user is told."""
    digest: str
    """SHA-256 of all examples above, in hex."""


def load_task(task: Task, data_dir: Path | None, max_train_examples: int | None = None) -> TaskData:
    """Read a task from a folder of the original GLUE files, or from the hub. Raises DataError.

    `max_train_examples`: how many examples of the train split are used at most, None for all.
    """
    assert max_train_examples is None or max_train_examples > 0
    splits, source = _from_hub(task) if data_dir is None else _from_files(task, data_dir)
    keyed = {split: _in_order(task, split, examples, source) for split, examples in splits.items()}
    keyed["train"] = keyed["train"][:max_train_examples]
    digest = _digest(keyed)
    ordered = {split: [example for _, example in rows] for split, rows in keyed.items()}
    return TaskData(task, ordered.pop("train"), ordered, source, digest)


def _from_files(task: Task, data_dir: Path) -> tuple[dict[str, list[Example]], str]:
    if not data_dir.is_dir():
        raise DataError(f"eval.data_dir: there is no folder {data_dir}; it must hold GLUE's original files")
    splits, source = {}, str(data_dir)
    for split in ("train", *task.dev_splits):
        path = file_of(data_dir, task, split)
        if path is not None:
            splits[split], skipped = read_split(path, task)
            source += f"; {skipped} broken lines of {path.name} left out" if skipped else ""
        elif split in required(task):
            raise missing_file(task, split, data_dir)
        else:
            source += f"; no {split}"
    return splits, source


def _from_hub(task: Task) -> tuple[dict[str, list[Example]], str]:
    revision = find_revision()
    splits = {split: hub_split(task, split, revision) for split in ("train", *task.dev_splits)}
    return splits, f"{HUB_NAME}@{revision or 'as downloaded before'}"


def _in_order(task: Task, split: str, examples: Sequence[Example], source: str) -> list[tuple[bytes, Example]]:
    """The examples with their keys, sorted by them. Equal keys belong to equal examples."""
    if not examples:
        raise DataError(f"{source}: {task.name}, {split}: there are no rows")
    return sorted(((_key(example), example) for example in examples), key=lambda pair: pair[0])


def _key(example: Example) -> bytes:
    return hashlib.sha256(json.dumps([example.texts, example.label]).encode()).digest()


def _digest(keyed: Mapping[str, Sequence[tuple[bytes, Example]]]) -> str:
    digest = hashlib.sha256()
    for split, rows in keyed.items():
        digest.update(f"{split} {len(rows)}\n".encode())
        digest.update(b"".join(key for key, _ in rows))
    return digest.hexdigest()


def read_split(path: Path, task: Task) -> tuple[list[Example], int]:
    """All rows of one file, in its order, and how many broken lines were left out. Raises DataError."""
    layout = LAYOUTS[task.name]
    lines = _lines(path)
    header = layout.header or _header(lines, path)
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


def _file_example(task: Task, layout: Layout, texts: Sequence[str], written: str, where: str) -> Example:
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
    problem = "means that it is hidden, as in test files; train and dev need labels" if hidden else "is not known"
    return DataError(f"{where}: the label {str(written)[:40]!r} {problem}; it must be {' or '.join(expected)}")


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


def _column(header: Sequence[str], name: str, path: Path) -> int:
    if header.count(name) != 1:
        problem = "twice" if name in header else "missing"
        found = ", ".join(map(repr, header))[:200]
        raise DataError(f"{path}:1: the column {name!r} is {problem}; the first line names {found}")
    return header.index(name)


def find_revision() -> str | None:
    """The commit that the hub has now; None where HF_HUB_OFFLINE asks for what was downloaded before."""
    from huggingface_hub import HfApi, constants  # a folder has no need of it

    require_hub(DATA_KEY, HUB_NAME, f"give the folder of the original GLUE files with {DATA_KEY}=FOLDER")
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return str(HfApi().dataset_info(HUB_NAME, timeout=HUB_TIMEOUT_S).sha)
    except Exception as error:  # whatever the network raises
        raise DataError(f"{DATA_KEY}: {HUB_NAME!r} cannot be found on the hub ({reason(error)})") from error


def hub_split(task: Task, split: str, revision: str | None) -> list[Example]:
    """The rows of "train" or of one of `Task.dev_splits`. Raises DataError."""
    import datasets  # a second to import, and only this source needs it

    name = split.replace("dev", "validation")
    try:
        data = datasets.load_dataset(HUB_NAME, task.name, split=name, revision=revision)
    except Exception as error:  # whatever its file readers and the network raise
        raise DataError(f"{DATA_KEY}: {HUB_NAME!r} has no loadable {task.name}, {name!r} ({reason(error)})") from error
    return examples_of(data, task, f"{HUB_NAME} ({task.name}, {name})")


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
