"""GLUE as it lies on the Hugging Face hub, to examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi, constants

from est_cli.common.errors import DataError, reason
from est_cli.data.hub import HUB_TIMEOUT_S, require_hub
from est_cli.evaluation.files import read_score, unknown_label
from est_cli.evaluation.tasks import Example, Task

NAME = "nyu-mll/glue"
KEY = "eval.data_dir"
LABEL = "label"


def find_revision() -> str | None:
    """The commit that the hub has now; None where HF_HUB_OFFLINE asks for what was downloaded before."""
    require_hub(KEY, NAME, f"give the folder of the original GLUE files with {KEY}=FOLDER")
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return str(HfApi().dataset_info(NAME, timeout=HUB_TIMEOUT_S).sha)
    except Exception as error:  # whatever the network raises
        raise DataError(f"{KEY}: {NAME!r} cannot be found on the hub ({reason(error)})") from error


def hub_split(task: Task, split: str, revision: str | None) -> list[Example]:
    """The rows of "train" or of one of `Task.dev_splits`. Raises DataError."""
    import datasets  # a second to import, and only this source needs it

    name = split.replace("dev", "validation")
    try:
        data = datasets.load_dataset(NAME, task.name, split=name, revision=revision)
    except Exception as error:  # whatever its file readers and the network raise
        raise DataError(f"{KEY}: {NAME!r} has no loadable {task.name}, {name!r} ({reason(error)})") from error
    return examples_of(data, task, f"{NAME} ({task.name}, {name})")


def examples_of(data: Any, task: Task, where: str) -> list[Example]:
    """The rows of a `datasets.Dataset`. Classes are told by their names, never by their numbers. Raises DataError."""
    missing = [name for name in (*task.fields, LABEL) if name not in data.column_names]
    if missing:
        raise DataError(f"{where}: the column {missing[0]!r} is missing; there are {', '.join(data.column_names)}")
    classes = _class_names(data, task, where)
    columns = data.select_columns([*task.fields, LABEL]).to_dict()
    rows = zip(*(columns[name] for name in (*task.fields, LABEL)), strict=True)
    return [_example(task, row[:-1], row[-1], classes, f"{where}:{at}") for at, row in enumerate(rows, start=1)]


def _class_names(data: Any, task: Task, where: str) -> Sequence[str] | None:
    """What the numbers in the label's column mean; None for a regression."""
    names = getattr(data.features[LABEL], "names", None)
    if (names is None) != task.is_regression or (names is not None and sorted(names) != sorted(task.labels)):
        expected = "scores" if task.is_regression else f"the classes {', '.join(task.labels)}"
        found = f"the classes {', '.join(names)}" if names is not None else "numbers without names"
        raise DataError(f"{where}: column {LABEL!r} has {found}, must have {expected}")
    return None if names is None else tuple(names)


def _example(task: Task, texts: Sequence[Any], label: Any, classes: Sequence[str] | None, where: str) -> Example:
    if not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in texts):
        raise DataError(f"{where}: there is no text in {' and '.join(map(repr, task.fields))}")
    column = f"{where}, column {LABEL!r}"
    if classes is None:
        return Example(tuple(texts), read_score(label, column))
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise unknown_label(label, classes, column)
    return Example(tuple(texts), float(task.labels.index(classes[label])))
