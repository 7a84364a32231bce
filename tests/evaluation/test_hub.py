import urllib.request
from pathlib import Path
from typing import Any

import datasets
import pytest

from est_cli.common.errors import DataError
from est_cli.evaluation import examples
from est_cli.evaluation.examples import examples_of, load_task
from est_cli.evaluation.glue import TASKS, Task
from tests.lab.glue_folder import make_glue, write_split

ALL = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


def data_set(task: Task, names: tuple[str, ...] | None, labels: list[Any], **columns: list[Any]) -> Any:
    """A split as the hub has it; `labels` are numbers of `names`, or scores."""
    texts: dict[str, list[Any]] = {field: [f"{n} {field}" for n in range(len(labels))] for field in task.fields}
    features = {field: datasets.Value("string") for field in task.fields}
    kind = datasets.Value("float32") if names is None else datasets.ClassLabel(names=list(names))
    rows = {**texts, "label": labels, "idx": list(range(len(labels))), **columns}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({**features, "label": kind, "idx": datasets.Value("int32")})
    )


def told(task: Task, data: Any) -> str:
    with pytest.raises(DataError) as error:
        examples_of(data, task, "here")
    assert "\n" not in str(error.value)
    return str(error.value)


@ALL
def test_classes_are_told_by_name(task: Task) -> None:
    """The names in reverse, and the numbers with them: the same examples."""
    if task.is_regression:
        scores = [example.label for example in examples_of(data_set(task, None, [0.0, 2.5, 5.0]), task, "here")]
        assert scores == [0.0, 2.5, 5.0]
        return
    count = len(task.labels)
    ids = [0, 1, count - 1, 0]
    straight = examples_of(data_set(task, task.labels, ids), task, "here")
    turned = examples_of(data_set(task, task.labels[::-1], [count - 1 - n for n in ids]), task, "here")
    assert straight == turned and [example.label for example in straight] == ids


@ALL
def test_hidden_labels(task: Task) -> None:
    data = data_set(task, task.labels or None, [1, -1])
    assert told(task, data).startswith("here:2, column 'label': the label ")
    assert "means that it is hidden, as in test files" in told(task, data)


@ALL
def test_a_missing_column(task: Task) -> None:
    for name in (*task.fields, "label"):
        data = data_set(task, task.labels or None, [1]).remove_columns(name)
        assert told(task, data).startswith(f"here: the column {name!r} is missing; there are ")


@ALL
def test_labels_of_another_kind(task: Task) -> None:
    wrong = ("0", "1", "2", "3") if task.is_regression else None
    expected = "scores" if task.is_regression else "the classes " + ", ".join(task.labels)
    found = "the classes 0, 1, 2, 3" if task.is_regression else "numbers without names"
    assert told(task, data_set(task, wrong, [1, 0])) == f"here: column 'label' has {found}, must have {expected}"


def test_an_extra_class() -> None:
    assert "has the classes entailment, not_entailment, other" in told(
        TASKS["rte"], data_set(TASKS["rte"], ("entailment", "not_entailment", "other"), [0, 1])
    )


def test_a_row_without_text() -> None:
    data = data_set(TASKS["rte"], TASKS["rte"].labels, [0, 1], sentence1=["a", None])
    assert told(TASKS["rte"], data) == "here:2: there is no text in 'sentence1' and 'sentence2'"


def test_the_hub_and_the_files_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["mnli"]
    local = load_task(task, make_glue(tmp_path, names=["mnli"]))
    splits = {"train": local.train, **{s.replace("dev", "validation"): rows for s, rows in local.dev.items()}}
    asked = []

    def load_dataset(name: str, config: str, split: str, revision: str | None) -> Any:
        asked.append((name, config, split, revision))
        rows = splits[split][::-1]
        texts = {field: [example.texts[n] for example in rows] for n, field in enumerate(task.fields)}
        names = ("contradiction", "entailment", "neutral")
        return data_set(task, names, [names.index(task.labels[int(example.label)]) for example in rows], **texts)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(examples, "find_revision", lambda: "abc")
    data = load_task(task, None)
    assert (data.train, data.dev, data.digest) == (local.train, local.dev, local.digest)
    assert data.source == "nyu-mll/glue@abc"
    assert asked == [("nyu-mll/glue", "mnli", split, "abc") for split in splits]


def test_scores_in_single_precision_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, written = TASKS["stsb"], ["0.000", "2.400", "4.583", "3.7666666666", "5.000"]
    rows = [((f"{n} a", f"{n} b"), score) for n, score in enumerate(written)]
    for split in ("train", "dev"):
        write_split(tmp_path, task, split, rows)
    texts = {field: [row[0][n] for row in rows] for n, field in enumerate(task.fields)}
    data = data_set(task, None, [float(score) for score in written], **texts)
    assert data["label"][1] != 2.4, "single precision"
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: data)
    monkeypatch.setattr(examples, "find_revision", lambda: "abc")
    local, found = load_task(task, tmp_path), load_task(task, None)
    assert found.digest == local.digest and found.train == local.train
    assert sorted(example.label for example in local.train) == [0.0, 2.4, 3.76667, 4.583, 5.0]


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    with pytest.raises(DataError, match=r"eval.data_dir: 'nyu-mll/glue' cannot be fetched, .* give the folder of the"):
        load_task(TASKS["rte"], None)
