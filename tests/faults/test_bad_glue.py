"""F4: GLUE with wrong labels, columns and splits: refused, or scored as by hand with each example counted once."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from est_cli import eval as evaluation
from est_cli.common.errors import DataError
from est_cli.common.rank import Rank
from est_cli.distributed.workers import Processes
from est_cli.evaluation.classifier import encode, load_classifier
from est_cli.evaluation.examples import load_task
from est_cli.evaluation.finetune import EncodedTask, predict, score
from est_cli.evaluation.glue import TASKS, Task
from est_cli.evaluation.task_files import examples_of, read_split
from est_cli.models.pretrained import open_checkpoint
from tests.evaluation.test_hub import data_set
from tests.faults.conftest import Tally
from tests.faults.refused import check_line, told_as, told_by_door
from tests.faults.size import either
from tests.lab.glue_folder import HEADERS, LABELS, make_glue, rows_of, write_split
from tests.lab.small_models import save

pytestmark = pytest.mark.row("F4")

NAMES = either(list(TASKS), ["mnli", "stsb"])
EACH = pytest.mark.parametrize("task", [TASKS[name] for name in NAMES], ids=NAMES)


def refused_file(path: Path, task: Task, *words: str) -> None:
    line = told_as(DataError, lambda: read_split(path, task))
    assert line.startswith(str(path)) and all(word in line for word in words), line


def refused_hub(data: Any, task: Task, *words: str) -> None:
    line = told_as(DataError, lambda: examples_of(data, task, "here"))
    assert line.startswith("here") and all(word in line for word in words), line


@EACH
def test_rows_and_class_names_in_another_order(tmp_path: Path, tally: Tally, task: Task) -> None:
    train, dev = rows_of(task, 30, "t"), rows_of(task, 9, "d")
    found = []
    for seed in range(4):
        folder = tmp_path / str(seed)
        write_split(folder, task, "train", random.Random(seed).sample(train, 30))
        for split in task.dev_splits:
            write_split(folder, task, split, random.Random(seed).sample(dev, 9))
        found.append(replace(load_task(task, folder), source=""))
    assert found[1:] == found[:1] * 3
    tally(inputs=4)
    if not task.is_regression:
        ids = [n % len(task.labels) for n in range(12)]
        straight = examples_of(data_set(task, task.labels, ids), task, "here")
        for turn in range(1, len(task.labels)):
            names = task.labels[turn:] + task.labels[:turn]
            turned = [names.index(task.labels[n]) for n in ids]
            assert examples_of(data_set(task, names, turned), task, "here") == straight
            tally(inputs=1)


@EACH
def test_hidden_labels(tmp_path: Path, tally: Tally, task: Task) -> None:
    for label in ("-1", "-1.0"):
        path = write_split(tmp_path, task, "dev", [*rows_of(task, 3), (rows_of(task, 1)[0][0], label)])
        refused_file(path, task, f"dev.tsv:{4 + (HEADERS[task.name] is not None)}, column ", "hidden, as in test files")
    refused_hub(data_set(task, task.labels or None, [1, -1]), task, "here:2, column 'label'", "hidden")
    tally(inputs=3)


@EACH
def test_a_missing_column(tmp_path: Path, tally: Tally, task: Task) -> None:
    for name in (*task.fields, "label"):
        refused_hub(data_set(task, task.labels or None, [1]).remove_columns(name), task, f"the column {name!r} is miss")
    path = write_split(tmp_path, task, "train", rows_of(task, 3))
    for column in range(len(path.read_text().splitlines()[-1].split("\t"))):
        path = write_split(tmp_path / str(column), task, "train", rows_of(task, 3))
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        path.write_text("".join("\t".join(line[:column] + line[column + 1 :]) + "\n" for line in lines))
        missing_is_told_or_nothing_lost(path, task)
        tally(inputs=1)
    tally(inputs=len(task.fields) + 1)


def missing_is_told_or_nothing_lost(path: Path, task: Task) -> None:
    """A column that nobody reads, such as the index, may be away: then the examples are what they are with it."""
    try:
        examples, skipped = read_split(path, task)
    except DataError as error:
        check_line(str(error), str(path))
        return
    texts = [texts for texts, _ in rows_of(task, 3)]
    assert skipped == 0 and [example.texts for example in examples] == texts, task.name


@EACH
def test_a_label_too_many(tmp_path: Path, tally: Tally, task: Task) -> None:
    labels = ("2", "3", "entailmentt", "Entailment", "", " 1", "1 ", "true", "nan", "inf", "6.0", "-0.5", "0x1", "one")
    wrong = [label for label in labels if label not in ("2", "3", " 1", "1 ") or not task.is_regression]
    for number, label in enumerate(wrong):
        path = write_split(tmp_path / str(number), task, "dev", [(rows_of(task, 1)[0][0], label)])
        refused_file(path, task, "is not known; it must be ")
        tally(inputs=1)
    if not task.is_regression:
        refused_hub(data_set(task, (*task.labels, "more"), [0, 1]), task, "column 'label' has the classes ")
        refused_hub(data_set(task, task.labels[:-1], [0, 0]), task, "column 'label' has the classes ")
        tally(inputs=2)


@EACH
def test_scores_as_classes_and_classes_as_scores(tmp_path: Path, tally: Tally, task: Task) -> None:
    other = ("entailment", "0.5 1", "high") if task.is_regression else ("0.5", "2.400", "5.000")
    for number, label in enumerate(other):
        path = write_split(tmp_path / str(number), task, "train", [(rows_of(task, 1)[0][0], label)])
        refused_file(path, task, "is not known")
    wrong = ("0", "1", "2", "3") if task.is_regression else None
    refused_hub(data_set(task, wrong, [1, 0]), task, "column 'label' has ")
    tally(inputs=len(other) + 1)


@EACH
def test_an_empty_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tally: Tally, task: Task
) -> None:
    """By the whole command: nothing is fine-tuned, and no record is written."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model")
    for number, split in enumerate(("train", task.dev_splits[0])):
        make_glue(tmp_path / f"glue{number}", names=[task.name])
        write_split(tmp_path / f"glue{number}", task, split, [])
        args = ["checkpoint=model", f"task={task.name}", f"eval.data_dir=glue{number}"]
        line = told_by_door(capfd, "est-eval", evaluation.main, args, 3)
        assert f"{task.name}, {split}: there are no rows" in line
        assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("results*"))
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
    tally(inputs=2)


class Stopped(Exception):
    """The process has said what it would add to the sum."""


class OneOf:
    """A group as one of two processes knows it, up to its first sum."""

    def __init__(self, rank: int) -> None:
        self.rank = Rank(rank, 2)
        self.said: list[float] = []

    def sum(self, values: Sequence[float]) -> Sequence[float]:
        self.said = list(values)
        raise Stopped


@EACH
def test_odd_sizes_on_two_processes(tmp_path: Path, tally: Tally, task: Task) -> None:
    checkpoint = open_checkpoint("checkpoint", str(save(tmp_path / "model")))
    outputs = 1 if task.is_regression else len(task.labels)
    settings = SimpleNamespace(dropout=0.0)
    model = classifier(checkpoint, outputs, settings)
    for size in (1, 7, 9):
        path = write_split(tmp_path / str(size), task, "dev", rows_of(task, size))
        examples, _ = read_split(path, task)
        dev = encode(examples, checkpoint, 40)
        given = EncodedTask(task, dev, {"dev": dev}, checkpoint.pad_id)
        parts = np.asarray([shares(model, given, OneOf(rank)) for rank in range(2)])
        found, counted = parts[:, 0].sum(0), parts[:, 1].sum(0)
        assert counted.tolist() == [1.0] * size, "each example is counted once"
        alone = Processes(torch.device("cpu"), nullcontext, SimpleNamespace(rank=Rank(), sum=list))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, predict(model, given, dev, 4, alone, lambda work: None), atol=1e-6)
        labels = np.asarray(dev.labels)
        told = score(task, found, labels)
        assert told == {name: pytest.approx(BY_HAND[name](found, labels), abs=1e-12) for name in task.metrics}
        tally(inputs=1)


def classifier(checkpoint: Any, outputs: int, settings: Any) -> Any:
    torch.manual_seed(1)
    model = load_classifier(checkpoint, outputs, 0, settings.dropout)
    with torch.no_grad():
        model.score.weight.normal_(std=1.0)  # so that not all examples get the same class
    return model


def shares(model: Any, given: EncodedTask, group: OneOf) -> list[list[float]]:
    """What this process predicts, and which examples it counts."""
    processes = Processes(torch.device("cpu"), nullcontext, group)  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        predict(model, given, given.dev["dev"], 4, processes, lambda work: None)
    half = len(group.said) // 2
    return [group.said[:half], group.said[half:]]


def accuracy(found: np.ndarray, labels: np.ndarray) -> float:
    return sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)


def cells(found: np.ndarray, labels: np.ndarray) -> tuple[int, int, int, int]:
    """True and false positives, false and true negatives."""
    pairs = list(zip(found, labels, strict=True))
    return tuple(pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))  # type: ignore[return-value]


def f1(found: np.ndarray, labels: np.ndarray) -> float:
    tp, fp, fn, _ = cells(found, labels)
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def mcc(found: np.ndarray, labels: np.ndarray) -> float:
    tp, fp, fn, tn = cells(found, labels)
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def pearson(found: np.ndarray, labels: np.ndarray) -> float:
    a, b = found - found.mean(), labels - labels.mean()
    below = math.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / below) if below else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Equal values share the mean of their ranks."""
    return np.asarray([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def spearman(found: np.ndarray, labels: np.ndarray) -> float:
    return pearson(ranks(found), ranks(labels))


BY_HAND = {"accuracy": accuracy, "f1": f1, "mcc": mcc, "pearson": pearson, "spearman": spearman}


def test_there_is_a_case_of_each_kind_for_each_task() -> None:
    assert len(TASKS) == 9 and set(BY_HAND) == {name for task in TASKS.values() for name in task.metrics}
    assert all(len(LABELS[name]) == len(task.labels) or task.is_regression for name, task in TASKS.items())
