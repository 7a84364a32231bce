"""The examples of a GLUE task, from files or from the hub, in an order that depends on nothing but them.

The rows stand in the order of a hash of their content. So another order of the same rows in the files, or of the class
names in a data set, changes no result, and any prefix is a fair subset even where a file is sorted by label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from est_cli.common.errors import DataError, reason
from est_cli.data.text.hub_access import HUB_TIMEOUT_S, require_hub
from est_cli.evaluation.glue import Example, Task, files_of, missing_file, required
from est_cli.evaluation.task_files import examples_of, read_split

HUB_NAME = "nyu-mll/glue"
DATA_KEY = "eval.data_dir"


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
    """Read a task from a folder of GLUE's files, or from the hub. Raises DataError.

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
        raise DataError(f"eval.data_dir: there is no folder {data_dir}; it must hold GLUE's files")
    splits: dict[str, list[Example]] = {}
    source = str(data_dir)
    for split in ("train", *task.dev_splits):
        paths = files_of(data_dir, task, split)
        for path in paths:
            examples, skipped = read_split(path, task)
            splits[split] = splits.get(split, []) + examples
            source += f"; {skipped} broken lines of {path.name} left out" if skipped else ""
        if paths:
            continue
        if split in required(task):
            raise missing_file(task, split, data_dir)
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


def find_revision() -> str | None:
    """The commit that the hub has now; None where HF_HUB_OFFLINE asks for what was downloaded before."""
    from huggingface_hub import HfApi, constants  # a folder has no need of it

    require_hub(
        DATA_KEY, HUB_NAME, f"give the folder of the original GLUE files with {DATA_KEY}=FOLDER", or_folder=False
    )
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
