"""What came out of fine-tunings: one record each, their spread over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from est_cli.evaluation.glue import TASKS, Task
from est_cli.reporting.student_t import mean_interval

GLUE_AVERAGE = "GLUE average"
AVERAGE_PRESENT = "average over the tasks present"
AVERAGE = "average"


def about(meaning: str, unit: str = "") -> dict[str, str]:
    """Of a field of results.json; docs/metrics.md is made of it."""
    return {"meaning": meaning, "unit": unit}


@dataclass(frozen=True)
class Constant:
    """The one class that every example of a dev split was given."""

    label: str
    share_frac: float
    """Of the examples that are of this class."""


@dataclass(frozen=True)
class Record:
    """One fine-tuning: a checkpoint, a task, a seed."""

    checkpoint: str = field(metadata=about("as the command line has it"))
    task: str = field(metadata=about("its name in GLUE"))
    seed: int = field(metadata=about("of the head and of the order of the examples"))
    scores: dict[str, dict[str, float]] = field(metadata=about("dev split -> metric -> value, of this epoch", "0-1"))
    score: float = field(metadata=about("the task's one number, the mean of its metrics", "0-1"))
    epoch: float = field(metadata=about("the one whose scores are reported"))
    epochs: list[dict[str, Any]] = field(metadata=about("the dev scores after each epoch"))
    train_examples: int = field(metadata=about("how many it was trained on"))
    dev_examples: dict[str, int] = field(metadata=about("dev split -> examples"))
    truncated: int = field(metadata=about("examples, of train and dev, that were longer than the model can read"))
    seconds: float = field(metadata=about("how long it took", "s"))
    settings_digest: str = field(metadata=about("of the settings that two records must share to be compared"))
    data_digest: str = field(metadata=about("of the task's files"))
    constant: dict[str, Constant] | None = field(
        default=None,
        metadata=about(
            "dev split -> `label` and `share_frac`, where every example of it was given that one class, which so many "
            "are; null: not known (of an earlier version)"
        ),
    )

    @property
    def pair(self) -> tuple[str, int, str, str]:
        """Records of two checkpoints with equal pairs can be compared."""
        return self.task, self.seed, self.settings_digest, self.data_digest

    @property
    def identity(self) -> tuple[str, str, int, str, str]:
        """What makes a record another one."""
        return self.checkpoint, *self.pair


@dataclass(frozen=True)
class Spread:
    """Over `n` seeds: the mean, and the standard deviation of a sample (n - 1), None where n is 1."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Summary:
    """What one checkpoint reached."""

    checkpoint: str
    tasks: dict[str, Spread]
    """Task -> its score, in GLUE's order."""
    metrics: dict[str, dict[str, Spread]]
    """Task -> "split.metric" -> its value."""
    average_over_tasks_present: Spread
    """Of the tasks' mean scores; the standard deviation of the seeds' averages, where all tasks have the same seeds."""
    glue_average: Spread | None
    """The same where it is the official one: all nine tasks, WNLI and both halves of MNLI included; otherwise None."""


@dataclass(frozen=True)
class Difference:
    """Model minus baseline over the `n` seeds that both have, and the confidence interval of its mean (Student's t)."""

    task: str
    mean: float
    low: float | None
    high: float | None
    n: int
    significant: bool | None
    """Whether 0 is outside of the interval; None where one pair says nothing about it."""


def summarise(records: Sequence[Record]) -> list[Summary]:
    """One summary per checkpoint, in the order in which they come. One record per checkpoint, task and seed."""
    assert len({(record.checkpoint, record.task, record.seed) for record in records}) == len(records)
    return [_summary(name, _of(records, name)) for name in dict.fromkeys(record.checkpoint for record in records)]


def compare(model: Sequence[Record], baseline: Sequence[Record]) -> list[Difference]:
    """Paired differences of the scores, over equal seeds with equal settings and data: task by task, then the average.

    A task without a pair is left out. The average is over the seeds that have a pair in every task, and is only there
    where every task of either has one.
    """
    other = {record.pair: record.score for record in baseline}
    paired = {task: _paired(_of_task(model, task), other) for task in _tasks(model)}
    found = {task: pairs for task, pairs in paired.items() if pairs}
    differences = [_difference(task, list(pairs.values())) for task, pairs in found.items()]
    if len(found) < 2 or not set(found) == set(_tasks(model)) == set(_tasks(baseline)):
        return differences
    seeds = [seed for seed in next(iter(found.values())) if all(seed in pairs for pairs in found.values())]
    if not seeds:
        return differences
    averages = [fmean(pairs[seed] for pairs in found.values()) for seed in seeds]
    return [*differences, _difference(GLUE_AVERAGE if is_glue([*model, *baseline]) else AVERAGE_PRESENT, averages)]


def differences_of(records: Sequence[Record], model: str, baseline: str | None) -> list[Difference] | None:
    """The comparison of two checkpoints among the records; None without a baseline."""
    if baseline is None:
        return None
    mine = [record for record in records if record.checkpoint == model]
    return compare(mine, [record for record in records if record.checkpoint == baseline])


def model_first(records: Sequence[Record], model: str) -> list[Record]:
    """The same records, those of `model` before the others."""
    return sorted(records, key=lambda record: record.checkpoint != model)


def score_numbers(records: Sequence[Record], model: str, baseline: str | None) -> dict[str, Any]:
    """TASK and TASK_sd of each task, the same of their average, all from 0 to 1, of the records of `model`.

    `one_class`: of how many fine-tunings the predictions are all the same, where there are any.
    Beside a baseline also the mean difference, of the average or the only task, and whether it is significant.
    """
    (summary,) = summarise([record for record in records if record.checkpoint == model])
    spreads = {**summary.tasks, AVERAGE: summary.average_over_tasks_present}
    numbers: dict[str, Any] = {}
    for name, spread in spreads.items():
        numbers |= {name: spread.mean, f"{name}_sd": spread.sd}
    numbers["seeds"] = summary.average_over_tasks_present.n
    if single := sum(bool(record.constant) for record in records if record.checkpoint == model):
        numbers["one_class"] = single
    differences = differences_of(records, model, baseline)
    if differences:
        numbers |= {"difference": differences[-1].mean, "significant": differences[-1].significant}
    return numbers | {"time_s": round(sum(record.seconds for record in records), 3)}


def constant_predictions(task: Task, predictions: Sequence[float], labels: Sequence[float]) -> Constant | None:
    """What all examples of a split were given, (N,) class ids or scores; None where it is more than one."""
    if len(set(predictions)) != 1:
        return None
    (value,) = set(predictions)
    name = f"{value:.3g}" if task.is_regression else task.labels[int(value)]
    return Constant(name, sum(label == value for label in labels) / len(labels))


def is_glue(records: Sequence[Record]) -> bool:
    """Whether their average is the official one: all nine tasks, both halves of MNLI."""
    complete = all(set(record.scores) == set(TASKS[record.task].dev_splits) for record in records)
    return complete and {record.task for record in records} == set(TASKS)


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and n of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _summary(checkpoint: str, records: Sequence[Record]) -> Summary:
    by_task = {task: _of_task(records, task) for task in _tasks(records)}
    tasks = {task: spread([record.score for record in found]) for task, found in by_task.items()}
    average = _average(tasks, by_task)
    metrics = {task: _metrics(found) for task, found in by_task.items()}
    return Summary(checkpoint, tasks, metrics, average, average if is_glue(records) else None)


def _average(tasks: Mapping[str, Spread], by_task: Mapping[str, Sequence[Record]]) -> Spread:
    mean = fmean(task.mean for task in tasks.values())
    scores = [{record.seed: record.score for record in found} for found in by_task.values()]
    if any(set(found) != set(scores[0]) for found in scores):
        return Spread(mean, None, min(map(len, scores)))
    return Spread(mean, spread([fmean(found[seed] for found in scores) for seed in scores[0]]).sd, len(scores[0]))


def _metrics(records: Sequence[Record]) -> dict[str, Spread]:
    names = [(split, metric) for split, values in records[0].scores.items() for metric in values]
    return {f"{split}.{name}": spread([record.scores[split][name] for record in records]) for split, name in names}


def _difference(task: str, values: Sequence[float]) -> Difference:
    values = [round(value, 12) for value in values]  # equal scores differ by nothing, not by a rounding error
    mean, interval = fmean(values), mean_interval(values)
    if interval is None:
        return Difference(task, mean, None, None, len(values), None)
    low, high = interval
    return Difference(task, mean, low, high, len(values), not low <= 0.0 <= high)


def _paired(records: Iterable[Record], other: Mapping[tuple[str, int, str, str], float]) -> dict[int, float]:
    """Seed -> difference."""
    return {record.seed: record.score - other[record.pair] for record in records if record.pair in other}


def _tasks(records: Iterable[Record]) -> list[str]:
    names = {record.task for record in records}
    return [name for name in TASKS if name in names]


def _of(records: Iterable[Record], checkpoint: str) -> list[Record]:
    return [record for record in records if record.checkpoint == checkpoint]


def _of_task(records: Iterable[Record], task: str) -> list[Record]:
    return [record for record in records if record.task == task]
