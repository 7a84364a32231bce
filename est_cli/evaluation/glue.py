"""GLUE: what its nine tasks are, and where their files lie in a folder. Standard library only.

Alex Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", 2019.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from est_cli.common.errors import ConfigError, DataError

EVERY = "glue"
"""The name that stands for all nine."""


@dataclass(frozen=True)
class Task:
    """One task. Class ids are positions in `labels`; where an F1 is official, class 1 is the positive one."""

    name: str
    fields: tuple[str, ...]
    """One or two columns of text, as the hub names them."""
    labels: tuple[str, ...]
    """Class names, as the hub spells them; none for a regression."""
    metrics: tuple[str, ...]
    """Of accuracy, f1, mcc, pearson and spearman."""
    dev_splits: tuple[str, ...] = ("dev",)

    @property
    def is_regression(self) -> bool:
        """Whether a label is a score (of STS-B, 0 to 5) and not a class."""
        return not self.labels


@dataclass(frozen=True)
class Example:
    """One row of a task."""

    texts: tuple[str, ...]
    """In the order of `Task.fields`, as they stand in the file."""
    label: float
    """The class id, or the score of a regression."""


_ENTAILED = ("entailment", "not_entailment")
_SENTENCES = ("sentence1", "sentence2")
TASKS = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("mcc",)),
        Task("sst2", ("sentence",), ("negative", "positive"), ("accuracy",)),
        Task("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), ("f1", "accuracy")),
        Task("stsb", _SENTENCES, (), ("pearson", "spearman")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            ("dev_matched", "dev_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), _ENTAILED, ("accuracy",)),
        Task("rte", _SENTENCES, _ENTAILED, ("accuracy",)),
        Task("wnli", _SENTENCES, ("not_entailment", "entailment"), ("accuracy",)),
    )
}
"""Name -> task, in the order of GLUE's own table."""


def resolve_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks called `names`, each once, in GLUE's order; "glue" stands for all. Raises ConfigError."""
    for name in names:
        if name not in TASKS and name != EVERY:
            close = difflib.get_close_matches(name.lower().replace("-", ""), [*TASKS, EVERY], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(TASKS)}, or {EVERY} for all"
            raise ConfigError(f"task: there is no GLUE task {name!r}; {hint}")
    return [task for task in TASKS.values() if EVERY in names or task.name in names]


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

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read."""
        return *self.texts, self.label


def _numbered(task: str) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(TASKS[task].labels)}


def _named(task: str) -> dict[str, str]:
    return {name: name for name in TASKS[task].labels}


_COLA = ("source", "label", "mark", "sentence")
LAYOUTS = {
    "cola": Layout("CoLA", ("sentence",), "label", _numbered("cola"), header=_COLA),
    "sst2": Layout("SST-2", ("sentence",), "label", _numbered("sst2")),
    "mrpc": Layout("MRPC", ("#1 String", "#2 String"), "Quality", _numbered("mrpc")),
    "stsb": Layout("STS-B", _SENTENCES, "score"),
    "qqp": Layout("QQP", ("question1", "question2"), "is_duplicate", _numbered("qqp"), may_be_short=True),
    "mnli": Layout("MNLI", _SENTENCES, "gold_label", _named("mnli")),
    "qnli": Layout("QNLI", ("question", "sentence"), "label", _named("qnli")),
    "rte": Layout("RTE", _SENTENCES, "label", _named("rte")),
    "wnli": Layout("WNLI", _SENTENCES, "label", _numbered("wnli")),
}


HUB_LABEL = "label"
HUB_LAYOUTS = {
    name: Layout(name, task.fields, HUB_LABEL, _numbered(name) | _named(name), may_be_short=name == "qqp")
    for name, task in TASKS.items()
}
"""The columns and the classes as nyu-mll/glue has them."""

SUFFIXES = (
    ".tsv", ".tsv.xz", ".tsv.gz", ".csv", ".csv.xz", ".csv.gz", ".jsonl", ".jsonl.xz", ".jsonl.gz", ".parquet",
)  # fmt: skip
"""Of the first of these that there is a split is read."""


def files_of(data_dir: Path, task: Task, split: str) -> list[Path]:
    """The files of a split ("train", or one of `Task.dev_splits`); only the hub has several of one."""
    for folder in _folders(data_dir, task):
        for name in (split, split.replace("dev", "validation")):
            for suffix in SUFFIXES:
                shards = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*{suffix}"))
                found = [path for path in (folder / f"{name}{suffix}",) if path.exists()] or shards
                if found:
                    return found
    return []


def _folders(data_dir: Path, task: Task) -> list[Path]:
    """Those with the name of the task in GLUE's spelling, the hub's (sst2) or any like them; GLUE's own comes first."""
    own = LAYOUTS[task.name].folder
    there = data_dir.iterdir() if data_dir.is_dir() else ()
    found = [path for path in there if path.name.lower().replace("-", "") == task.name and path.is_dir()]
    return sorted(found, key=lambda path: (path.name != own, path.name))


def available_tasks(data_dir: Path | None) -> list[str]:
    """The tasks with a train and a (first) dev file in the folder; without a folder all, the hub has them."""
    if data_dir is None:
        return list(TASKS)
    return [name for name, task in TASKS.items() if all(files_of(data_dir, task, s) for s in required(task))]


def required(task: Task) -> tuple[str, str]:
    """The splits without which a task is incomplete: MNLI's mismatched dev is welcome, but not asked for."""
    return "train", task.dev_splits[0]


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
        if not files_of(data_dir, task, split):
            raise missing_file(task, split, data_dir)


def missing_file(task: Task, split: str, data_dir: Path) -> DataError:
    path = data_dir / LAYOUTS[task.name].folder / f"{split}.tsv"
    there = ",".join(available_tasks(data_dir))
    complete = f"complete in this folder: task={there}" if there else "no task is complete in this folder"
    return DataError(f"{path}: there is no such file, in no form; {complete}")
