"""The examples of a task, in an order that depends on nothing but them.

The rows stand in the order of a hash of their content. So another order of the same rows in the files, or of the class
names in a data set, changes no result, and any prefix is a fair subset even where a file is sorted by label.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from est_cli.common.errors import DataError
from est_cli.evaluation.files import LAYOUTS, available_tasks, file_of, read_split, required
from est_cli.evaluation.tasks import EVERY, Example, Task, resolve_tasks

__all__ = ["Example", "TaskData", "available_tasks", "load_task", "require_files", "tasks_in"]


@dataclass(frozen=True)
class TaskData:
    """A task's examples, as they are used."""

    task: Task
    train: list[Example]
    dev: dict[str, list[Example]]
    """By dev split, those of `Task.dev_splits` that are there; always complete."""
    source: str
    """Where the examples come from, and how many broken lines were left out, for the record."""
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


def tasks_in(data_dir: Path | None, names: Sequence[str]) -> list[Task]:
    """The tasks called `names`, of "glue" those that are complete in the folder. Raises ConfigError."""
    tasks = resolve_tasks(names)
    if data_dir is None or EVERY not in names:
        return tasks
    there = {*available_tasks(data_dir), *names}
    return [task for task in tasks if task.name in there] or tasks[:1]


def require_files(task: Task, data_dir: Path) -> None:
    """Raise DataError where the folder does not hold the task."""
    for split in required(task):
        if file_of(data_dir, task, split) is None:
            raise _missing(task, split, data_dir)


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
            raise _missing(task, split, data_dir)
        else:
            source += f"; no {split}"
    return splits, source


def _missing(task: Task, split: str, data_dir: Path) -> DataError:
    path = data_dir / LAYOUTS[task.name].folder / f"{split}.tsv"
    there = ",".join(available_tasks(data_dir))
    complete = f"complete in this folder: task={there}" if there else "no task is complete in this folder"
    return DataError(f"{path}: there is no such file, nor {path.name}.xz; {complete}")


def _from_hub(task: Task) -> tuple[dict[str, list[Example]], str]:
    from est_cli.evaluation import hub  # it imports the hub's client, which a folder does not need

    revision = hub.find_revision()
    splits = {split: hub.hub_split(task, split, revision) for split in ("train", *task.dev_splits)}
    return splits, f"{hub.NAME}@{revision or 'as downloaded before'}"


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
