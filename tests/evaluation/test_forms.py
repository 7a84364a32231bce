"""The same rows in any form and under any name of the folder are the same task."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import DataError
from est_cli.evaluation.examples import TaskData, load_task
from est_cli.evaluation.glue import LAYOUTS, TASKS, Layout, Task, available_tasks, files_of
from tests.lab.glue_folder import FOLDERS, Row, make_glue, rows_of, write_split

ALL = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


def hub_rows(task: Task, rows: Sequence[Row]) -> list[dict[str, object]]:
    """In the columns of the hub, with its numbers for classes."""
    written = LAYOUTS[task.name].written
    labels = [float(label) if task.is_regression else task.labels.index(written[label]) for _, label in rows]
    return [
        dict(zip(task.fields, texts, strict=True)) | {"label": label, "idx": number}
        for number, ((texts, _), label) in enumerate(zip(rows, labels, strict=True))
    ]


def own_rows(task: Task, rows: Sequence[Row]) -> list[dict[str, object]]:
    layout: Layout = LAYOUTS[task.name]
    return [dict(zip(layout.columns, (*texts, label), strict=True)) for texts, label in rows]


def jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def comma(path: Path, rows: list[dict[str, object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def on_the_hub(path: Path, rows: list[dict[str, object]], task: Task) -> None:
    label = datasets.Value("float32") if task.is_regression else datasets.ClassLabel(names=list(task.labels))
    texts = {name: datasets.Value("string") for name in task.fields}
    features = datasets.Features({**texts, "label": label, "idx": datasets.Value("int32")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def write_task(root: Path, folder: str, task: Task, write: Callable[[Path, str, list[Row]], None]) -> TaskData:
    (root / folder).mkdir(parents=True)
    write(root / folder, "train", rows_of(task, 12, "t"))
    for split in task.dev_splits:
        write(root / folder, split, rows_of(task, 7, split))
    assert available_tasks(root) == [task.name]
    return load_task(task, root)


@ALL
def test_every_form_is_the_same_task(tmp_path: Path, task: Task) -> None:
    original = load_task(task, make_glue(tmp_path / "tsv", names=[task.name])).digest

    def parquet_shards(folder: Path, split: str, rows: list[Row]) -> None:
        name, found = split.replace("dev", "validation"), hub_rows(task, rows)
        for number, part in enumerate((found[:3], found[3:])):
            on_the_hub(folder / f"{name}-0000{number}-of-00002.parquet", part, task)

    def packed(folder: Path, split: str, rows: list[Row]) -> None:
        path = write_split(folder.parent, task, split, rows)
        path.with_suffix(".tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    forms: dict[str, Callable[[Path, str, list[Row]], None]] = {
        "parquet": parquet_shards,
        "jsonl": lambda folder, split, rows: jsonl(folder / f"{split}.jsonl", hub_rows(task, rows)),
        "jsonl of its own": lambda folder, split, rows: jsonl(folder / f"{split}.jsonl", own_rows(task, rows)),
        "csv": lambda folder, split, rows: comma(folder / f"{split}.csv", own_rows(task, rows)),
        "csv.gz": lambda folder, split, rows: comma(folder / f"{split}.csv.gz", hub_rows(task, rows)),
    }
    for form, write in forms.items():
        for folder in (task.name, FOLDERS[task.name]):
            data = write_task(tmp_path / f"{form}, {folder == task.name}", folder, task, write)
            assert (form, data.digest) == (form, original)
    assert write_task(tmp_path / "gz", FOLDERS[task.name], task, packed).digest == original


def test_tabs_with_the_columns_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "mnli").mkdir()
    for split in ("train", "validation_matched"):
        text = "idx\tpremise\thypothesis\tlabel\n0\ta\tb\t2\n1\tc\td\tneutral\n"
        (tmp_path / "mnli" / f"{split}.tsv").write_text(text)
    labels = {example.texts: example.label for example in load_task(TASKS["mnli"], tmp_path).train}
    assert labels == {("a", "b"): 2, ("c", "d"): 1}


def test_which_of_several_files_is_read(tmp_path: Path) -> None:
    """GLUE's own, as before there were others."""
    own, other = tmp_path / "SST-2", tmp_path / "sst2"
    for folder in (own, other):
        folder.mkdir()
        for suffix in (".csv", ".tsv", ".tsv.xz"):
            (folder / f"train{suffix}").touch()
    assert files_of(tmp_path, TASKS["sst2"], "train") == [own / "train.tsv"]
    (own / "train.tsv").unlink()
    assert files_of(tmp_path, TASKS["sst2"], "train") == [own / "train.tsv.xz"]
    assert files_of(tmp_path, TASKS["sst2"], "dev") == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train.csv", b"sentence,label\na,1,2\n", ":2: the row has 3 fields, the first line names 2"),
        ("train.csv", b"sentence,label\na,7\n", ":2, column 'label': the label '7' is not known; it must be 0 or 1"),
        ("train.csv", b"text,label\na,1\n", ":2: the column 'sentence' is missing; there are 'text', 'label'"),
        (
            "train.jsonl",
            b'{"sentence": "a", "label": -1}\n',
            ":1, column 'label': the label '-1' means that it is hidden",
        ),
        ("train.jsonl", b'{"sentence": null, "label": 1}\n', ":1: there is no text in 'sentence'"),
        ("train.jsonl", b'{"sentence": \n', ":1: not JSON"),
        ("train.jsonl", b"[]\n", ":1: a row must be a JSON object"),
        ("train.tsv.gz", gzip.compress(b"sentence\tlabel\na\t1\n", mtime=0)[:-9], ": cannot be read to the end"),
        ("train.tsv.gz", b"sentence\tlabel\n", ": cannot be read to the end"),
        ("train.parquet", b"PAR1", ": not readable as parquet"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load_task(TASKS["sst2"], tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'sst2' / name}{told}")
    assert "dataset." not in str(error.value)


def test_numbers_of_parquet_need_the_names_of_their_classes(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    table = pa.table({"sentence1": ["a"], "sentence2": ["b"], "label": [1]})
    parquet.write_table(table, tmp_path / "rte" / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: column 'label' has numbers without names"):
        load_task(TASKS["rte"], tmp_path)
