import lzma
from pathlib import Path

import pytest

from est_cli.common.errors import DataError
from est_cli.evaluation.glue import LAYOUTS, TASKS, Example, Task
from est_cli.evaluation.task_files import MAX_LINE, read_split
from tests.lab.glue_folder import FOLDERS, HEADERS, LABELS, line_of, rows_of, write_split

ALL = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


def told(path: Path, task: Task) -> str:
    """The one line in which a file is refused, without its folder."""
    with pytest.raises(DataError) as error:
        read_split(path, task)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
    return str(error.value).removeprefix(f"{path.parent}/")


@ALL
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.xz"])
def test_rows_are_read_by_names(tmp_path: Path, task: Task, suffix: str) -> None:
    rows = rows_of(task, 6)
    examples, skipped = read_split(write_split(tmp_path, task, "train", rows, suffix), task)
    ids = [float(label) if task.is_regression else float(LABELS[task.name].index(label)) for _, label in rows]
    assert examples == [Example(texts, label) for (texts, _), label in zip(rows, ids, strict=True)]
    assert skipped == 0


@pytest.mark.parametrize(
    ("name", "written", "meaning"),
    [
        *(("cola", "0", "unacceptable"), ("sst2", "1", "positive"), ("mrpc", "1", "equivalent")),
        *(("qqp", "0", "not_duplicate"), ("wnli", "1", "entailment"), ("wnli", "0", "not_entailment")),
        *(("rte", "entailment", "entailment"), ("qnli", "not_entailment", "not_entailment")),
        ("mnli", "contradiction", "contradiction"),
    ],
)
def test_what_a_written_label_means(tmp_path: Path, name: str, written: str, meaning: str) -> None:
    task = TASKS[name]
    ((example,), _) = read_split(write_split(tmp_path, task, "dev", [(rows_of(task, 1)[0][0], written)]), task)
    assert task.labels[int(example.label)] == meaning


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("label\tmore\tsentence2\tsentence1\tindex\nentailment\tx\tsecond\tfirst\t0\n")
    assert read_split(path, TASKS["rte"])[0] == [Example(("first", "second"), 0.0)]


@pytest.mark.parametrize(
    "text", ['" the " witness', "'", "a\u2028b", "a\x0bb\x1cc", "a\rb", "  spaces  ", "x" * 200_000, "東京\xa0"]
)
def test_texts_stand_as_they_are(tmp_path: Path, text: str) -> None:
    """Quotes mean nothing, and only a line feed ends a line."""
    rows = [((text,), "1"), (("next",), "0")]
    examples, _ = read_split(write_split(tmp_path, TASKS["sst2"], "train", rows), TASKS["sst2"])
    assert [example.texts for example in examples] == [(text,), ("next",)]


def test_windows_line_ends_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_bytes(b"\xef\xbb\xbfsentence\tlabel\r\na\t1\r\n\r\nb\t0")
    assert read_split(path, TASKS["sst2"])[0] == [Example(("a",), 1.0), Example(("b",), 0.0)]


@ALL
@pytest.mark.parametrize("label", ["-1", "2", "entailmentt", "", "nan", "5.001", "1.5 "])
def test_an_unknown_label(tmp_path: Path, task: Task, label: str) -> None:
    path = write_split(tmp_path, task, "dev", [*rows_of(task, 3), (rows_of(task, 1)[0][0], label)])
    if task.is_regression and label in ("2", "1.5 "):
        assert len(read_split(path, task)[0]) == 4
        return
    line = 4 + (HEADERS[task.name] is not None)
    found = told(path, task)
    meaning = "means that it is hidden" if label == "-1" else "is not known"
    assert found.startswith(f"dev.tsv:{line}, column ") and f"the label {label!r} {meaning}" in found


@pytest.mark.parametrize("task", [task for task in TASKS.values() if HEADERS[task.name]], ids=lambda task: task.name)
def test_a_missing_column(tmp_path: Path, task: Task) -> None:
    """A header that names another column, so that every row still has as many columns as it."""
    layout = LAYOUTS[task.name]
    for name in (*layout.texts, layout.label):
        path = write_split(tmp_path, task, "train", rows_of(task, 2))
        first, rest = path.read_text().split("\n", 1)
        names = ["other" if column.removeprefix("\ufeff") == name else column for column in first.split("\t")]
        path.write_text("\t".join(names) + "\n" + rest)
        assert told(path, task).startswith(f"train.tsv:1: the column {name!r} is missing; the first line names ")


def test_a_column_named_twice(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("label\tsentence\tlabel\n0\ta\t1\n")
    assert "the column 'label' is twice" in told(path, TASKS["sst2"])


def test_cola_with_a_header_is_no_original(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("source\tlabel\tmark\tsentence\nx\t1\t\tgood\n")
    assert told(path, TASKS["cola"]).startswith("train.tsv:1, column 'label': the label 'label' is not known")


@ALL
@pytest.mark.parametrize("change", ["short", "long"])
def test_a_ragged_line(tmp_path: Path, task: Task, change: str) -> None:
    """Of QQP, and of no other task, lines that are too short are left out, and counted."""
    path = write_split(tmp_path, task, "train", rows_of(task, 2))
    line = line_of(task, *rows_of(task, 3)[2])
    with path.open("a") as file:
        file.write((line.rpartition("\t")[0] if change == "short" else f"{line}\tx") + "\n")
    if task.name == "qqp" and change == "short":
        examples, skipped = read_split(path, task)
        assert (len(examples), skipped) == (2, 1)
        return
    columns = line.count("\t") + 1
    number = 3 + (HEADERS[task.name] is not None)
    count = columns + (1 if change == "long" else -1)
    assert told(path, task) == f"train.tsv:{number}: has {count} columns, must have {columns} with tabs between them"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty"),
        (b"sentence\tlabel\na\xe9b\t1\n", ":2: not UTF-8 (byte 0xe9)"),
        ("sentence\tlabel\na\t1\n".encode("utf-16"), ":1: has a NUL byte"),
        (b"sentence\tlabel\na\0b\t1\n", ":2: has a NUL byte"),
        (b"sentence\tlabel\n \t1\n", ":2: there is no text in 'sentence'"),
        (b"sentence\tlabel\n" + b"a" * (MAX_LINE + 1), ":2: the line is longer than"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "dev.tsv"
    path.write_bytes(data)
    assert expected in told(path, TASKS["sst2"])


def test_a_damaged_xz_file(tmp_path: Path) -> None:
    path = tmp_path / "dev.tsv.xz"
    for data in (b"sentence\tlabel\n", lzma.compress(b"sentence\tlabel\na\t1\n")[:-9]):
        path.write_bytes(data)
        assert "dev.tsv.xz: cannot be read to the end (" in told(path, TASKS["sst2"])


def test_the_folders_are_glues_own() -> None:
    assert {name: layout.folder for name, layout in LAYOUTS.items()} == FOLDERS
