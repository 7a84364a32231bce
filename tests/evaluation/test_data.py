import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from est_cli.common.errors import DataError
from est_cli.evaluation.examples import TaskData, load_task
from est_cli.evaluation.glue import TASKS, Example, Task, available_tasks
from tests.lab.glue_folder import Row, make_glue, rows_of, write_split

ALL = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


def loaded(root: Path, task: Task, train: Sequence[Row], dev: Sequence[Row], limit: int | None = None) -> TaskData:
    """The task from files with these rows; nothing of the result but its `source` may tell the folders apart."""
    write_split(root, task, "train", train)
    for split in task.dev_splits:
        write_split(root, task, split, dev)
    return replace(load_task(task, root, limit), source="")


def told(task: Task, root: Path) -> str:
    with pytest.raises(DataError) as error:
        load_task(task, root)
    assert "\n" not in str(error.value)
    return str(error.value)


@ALL
def test_all_splits_are_loaded(tmp_path: Path, task: Task) -> None:
    data = load_task(task, make_glue(tmp_path))
    assert len(data.train) == 12 and {split: len(rows) for split, rows in data.dev.items()} == dict.fromkeys(
        task.dev_splits, 7
    )
    assert data.source == str(tmp_path)


@ALL
def test_the_order_of_the_rows_changes_nothing(tmp_path: Path, task: Task) -> None:
    train, dev = rows_of(task, 40, "t"), rows_of(task, 9, "d")
    shuffled = random.Random(0).sample(train, 40), random.Random(1).sample(dev, 9)
    by_label = sorted(train, key=lambda row: row[1]), sorted(dev, key=lambda row: row[1])
    for limit in (None, 10):
        first, *others = (
            loaded(tmp_path / str(n), task, *rows, limit) for n, rows in enumerate([(train, dev), shuffled, by_label])
        )
        assert len(first.train) == (limit or 40) and [*map(len, first.dev.values())] == [9] * len(task.dev_splits)
        assert others == [first, first]


def test_a_prefix_is_a_fair_subset_of_a_sorted_file(tmp_path: Path) -> None:
    rows = sorted(rows_of(TASKS["sst2"], 1000), key=lambda row: row[1])
    data = loaded(tmp_path, TASKS["sst2"], rows, rows[:4], 200)
    assert 70 <= sum(example.label for example in data.train) <= 130
    less = loaded(tmp_path, TASKS["sst2"], rows, rows[:4], 100)
    assert less.train == data.train[:100]


def test_a_limit_above_the_size_is_none(tmp_path: Path) -> None:
    root = make_glue(tmp_path, names=["rte"])
    assert load_task(TASKS["rte"], root, 100) == load_task(TASKS["rte"], root, None)


def test_the_digest_is_that_of_what_is_used(tmp_path: Path) -> None:
    task = TASKS["rte"]
    train, dev = rows_of(task, 6, "t"), rows_of(task, 4, "d")
    other_label = [*train[:5], (train[5][0], train[4][1])]
    other_text = [*train[:5], ((train[5][0][0], "new"), train[5][1])]
    cases = [(train, dev, None), (train, dev, 5), (other_label, dev, None), (other_text, dev, None)]
    cases += [(train, dev[:3], None), (train + train[:1], dev, None)]
    digests = [loaded(tmp_path / str(n), task, *case).digest for n, case in enumerate(cases)]
    assert len(set(digests)) == len(cases)
    assert all(len(digest) == 64 for digest in digests)


def test_texts_are_not_glued_together(tmp_path: Path) -> None:
    pairs = [("ab", "c"), ("a", "bc")]
    made = [loaded(tmp_path / a, TASKS["rte"], [((a, b), "entailment")], rows_of(TASKS["rte"], 1)) for a, b in pairs]
    assert made[0].digest != made[1].digest


def test_mnli_without_its_mismatched_half(tmp_path: Path) -> None:
    """As with the files of the README: complete with train and one dev file, and the record says so."""
    make_glue(tmp_path, names=["mnli"])
    (tmp_path / "MNLI/dev_mismatched.tsv").unlink()
    data = load_task(TASKS["mnli"], tmp_path)
    assert list(data.dev) == ["dev_matched"] and data.source == f"{tmp_path}; no dev_mismatched"
    assert available_tasks(tmp_path) == ["mnli"]


def test_broken_lines_of_qqp_are_counted(tmp_path: Path) -> None:
    make_glue(tmp_path, names=["qqp"])
    with (tmp_path / "QQP/train.tsv").open("a") as file:
        file.write("x\tx\tx\tfirst part of a question\nthe rest\tother question\t0\n")
    data = load_task(TASKS["qqp"], tmp_path)
    assert len(data.train) == 12 and data.source == f"{tmp_path}; 2 broken lines of train.tsv left out"


@ALL
@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_missing_file(tmp_path: Path, task: Task, split: str) -> None:
    make_glue(tmp_path, names=[task.name, "wnli" if task.name != "wnli" else "rte"])
    split = task.dev_splits[0] if split == "dev" else split
    folder = next(path for path in tmp_path.iterdir() if path.name.lower().replace("-", "") == task.name)
    (folder / f"{split}.tsv").unlink()
    other = "wnli" if task.name != "wnli" else "rte"
    assert told(task, tmp_path) == (
        f"{folder}/{split}.tsv: there is no such file, in no form; complete in this folder: task={other}"
    )


def test_a_missing_folder(tmp_path: Path) -> None:
    assert told(TASKS["rte"], tmp_path).endswith("RTE/train.tsv: there is no such file, in no form; no task is "
                                                 "complete in this folder")  # fmt: skip
    assert told(TASKS["rte"], tmp_path / "no") == (
        f"eval.data_dir: there is no folder {tmp_path}/no; it must hold GLUE's files"
    )


@ALL
def test_an_empty_split(tmp_path: Path, task: Task) -> None:
    make_glue(tmp_path, names=[task.name])
    write_split(tmp_path, task, task.dev_splits[0], [])
    assert told(task, tmp_path).endswith(f"{task.name}, {task.dev_splits[0]}: there are no rows")


def test_a_split_that_is_a_folder(tmp_path: Path) -> None:
    make_glue(tmp_path, names=["rte"])
    (tmp_path / "RTE/train.tsv").unlink()
    (tmp_path / "RTE/train.tsv").mkdir()
    assert told(TASKS["rte"], tmp_path) == f"{tmp_path}/RTE/train.tsv: cannot be read to the end (Is a directory)"


REAL = {
    "cola": ((8551, {"acceptable": 6023, "unacceptable": 2528}), (1043, {"acceptable": 721, "unacceptable": 322})),
    "sst2": ((67349, {"positive": 37569, "negative": 29780}), (872, {"positive": 444, "negative": 428})),
    "mrpc": ((3668, {"equivalent": 2474, "not_equivalent": 1194}), (408, {"equivalent": 279, "not_equivalent": 129})),
    "stsb": ((5749, (0.0, 5.0)), (1500, (0.0, 5.0))),
    "qqp": ((20000, {"duplicate": 7473, "not_duplicate": 12527}), (3496, {"duplicate": 1274, "not_duplicate": 2222})),
    "mnli": (
        (10471, {"entailment": 3565, "neutral": 3470, "contradiction": 3436}),
        (9815, {"entailment": 3479, "neutral": 3123, "contradiction": 3213}),
    ),
    "qnli": (
        (19476, {"entailment": 9768, "not_entailment": 9708}),
        (5463, {"entailment": 2702, "not_entailment": 2761}),
    ),
    "wnli": ((635, {"entailment": 312, "not_entailment": 323}), (71, {"entailment": 31, "not_entailment": 40})),
}
"""Task -> (examples, balance of the labels or range of the scores) of train and of dev, from the README of the data."""


@pytest.mark.skipif("EST_DATA" not in os.environ, reason="needs the real GLUE files (EST_DATA)")
@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name: str) -> None:
    task = TASKS[name]
    root = Path(os.environ["EST_DATA"]) / "glue"
    assert name in available_tasks(root)
    data = load_task(task, root)
    assert (counted(task, data.train), counted(task, data.dev[task.dev_splits[0]])) == REAL[name]
    assert len(load_task(task, root, 300).train) == 300


def counted(task: Task, examples: Sequence[Example]) -> object:
    labels = [example.label for example in examples]
    if task.is_regression:
        return len(labels), (min(labels), max(labels))
    return len(labels), {task.labels[int(label)]: count for label, count in Counter(labels).items()}
