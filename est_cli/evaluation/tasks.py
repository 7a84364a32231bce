"""What the nine tasks of GLUE are, and what a row of one is: columns, labels, official metrics. Standard library only.

Alex Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", 2019.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from est_cli.common.errors import ConfigError

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
