"""The records of a run, read: checked, taken apart, and what they amount to: stages, smooth curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from est_cli.common.errors import StorageError
from est_cli.tracking.records import FIELDS, Field, In, Record

LARGEST = 1e100
"""No run has a number as large; the square of it can still be computed with."""
_CHECKED = {record: [field for field in FIELDS if record in field.checked] for record in In}
_SHOWN = [field for field in FIELDS if field in _CHECKED[In.summary] or {In.summary, In.report} <= {*field.where}]
"""Of a summary, and of a checkpoint's state: what a report shows; each may be null."""
_BOUNDS = {
    field.name: (
        -LARGEST if field.above is None else max(field.above, -LARGEST),
        LARGEST if field.below is None else min(field.below, LARGEST),
    )
    for field in FIELDS
}
_ANYWHERE = [field for field in FIELDS if field.name == "step"]


@dataclass(frozen=True)
class Span:
    """The steps (`begin`, `end`] of one stage and its rates p_H, p_M, p_L."""

    number: int
    begin: int
    end: int
    rates: tuple[float, float, float]
    """The mean of its records."""
    p_t: float = 1.0
    """The share of its predictions that a loss is the mean of."""

    @property
    def full(self) -> bool:
        return min(*self.rates, self.p_t) == 1


def check_records(metrics: Sequence[Record], path: Path) -> None:
    """StorageError for a record that lacks what pictures and tables are made of; `path` is where they were read."""
    for record in metrics:
        kind = In.step if "loss" in record else In.validation if "val_loss" in record else None
        for field in _CHECKED[kind] if kind else _ANYWHERE:
            value = record.get(field.name)
            if not (_possible(field, value) or (value is None and field.null)):
                step = str(record["step"])[:20]
                raise StorageError(f"{path}: the record of step {step} has no number as `{field.name}`")


def odd_values(summary: Record) -> list[str]:
    """The keys of a summary or a state whose values a report could not show."""
    return [
        field.name
        for field in _SHOWN
        if summary.get(field.name) is not None and not _possible(field, summary[field.name])
    ]


def _possible(field: Field, value: Any) -> bool:
    """Whether this field can have the value."""
    if field.kind is not float:
        return isinstance(value, field.kind)
    low, high = _BOUNDS[field.name]
    return type(value) in (int, float) and low < value < high  # False of NaN


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST  # False of NaN


def training_records(metrics: Iterable[Record]) -> list[Record]:
    """Those of training steps, in order."""
    return by_step(record for record in metrics if "loss" in record)


def validation_records(metrics: Iterable[Record]) -> list[Record]:
    """Those of evaluations whose loss was finite, in order."""
    return by_step(record for record in metrics if record.get("val_loss") is not None)


def transition_steps(metrics: Iterable[Record]) -> list[int]:
    """The first steps of the stages after the first one."""
    return sorted({record["step"] for record in metrics if "from_stage" in record})


def task_records(metrics: Iterable[Record]) -> list[Record]:
    """Those of lm-evaluation-harness' tasks, in order, each with nothing but numbers in `tasks`."""
    found = [record for record in metrics if isinstance(record.get("tasks"), dict)]
    clean = [{**record, "tasks": {k: v for k, v in record["tasks"].items() if _is_number(v)}} for record in found]
    return by_step(record for record in clean if record["tasks"])


def by_step(records: Iterable[Record]) -> list[Record]:
    """In the order of steps; of several records of one step (a run that was resumed) the last."""
    last = {record["step"]: record for record in records}
    return [last[step] for step in sorted(last)]


def column(records: Sequence[Record], key: str) -> np.ndarray:
    """(len(records),) float64; null becomes NaN."""
    return np.array([np.nan if record[key] is None else record[key] for record in records], dtype=float)


def stage_spans(train: Sequence[Record]) -> list[Span]:
    """The stages that the training records went through, in order, without gaps."""
    spans: list[Span] = []
    for number, group in groupby(train, key=lambda record: record["stage"]):
        records = list(group)
        begin = spans[-1].end if spans else records[0]["step"] - 1
        p_h, p_m, p_l = (fmean(record[key] for record in records) for key in ("p_h", "p_m", "p_l"))
        p_t = fmean(record.get("p_t", 1.0) for record in records)
        spans.append(Span(number, begin, records[-1]["step"], (p_h, p_m, p_l), p_t))
    return spans


def smooth_loss(train: Sequence[Record]) -> np.ndarray:
    """(len(train),) running mean of the training loss. It breaks at stages, for the loss jumps there."""
    losses, stages = column(train, "loss"), column(train, "stage")
    smooth = np.empty_like(losses)
    for number in np.unique(stages):
        smooth[stages == number] = running_mean(losses[stages == number], max(3, len(train) // 40))
    return smooth


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of about `width` values around each one, of fewer at both ends. NaN is left out."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values))
    low, high = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return mean
