"""Whether metrics.jsonl has what was written to it, once: a checkpoint counts the records, steps tell the gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from est_cli.common.counts import counted
from est_cli.tracking.records import In, Record

_NAMES = {
    In.step: "training steps",
    In.validation: "validations",
    In.transition: "transitions",
    In.not_finite: "steps that were left out",
    In.skipped: "spikes that were left out",
    In.rewind: "rewinds",
    In.tasks: "evaluations of tasks",
}
_MOST_GAPS = 3


def kind_of(record: Record) -> str:
    """Which of the records of `In` it is, one of the layers' health as trackers have it (records.flat) too."""
    if any(key.startswith("layers/") for key in record):
        return In.layers.value
    return str(record.get("event", In.step.value if "loss" in record else In.validation.value))


def count_records(records: Iterable[Record]) -> dict[str, int]:
    """How many there are of each kind; several of one step are one."""
    return dict(Counter(kind for kind, _ in {(kind_of(record), record["step"]) for record in records}))


def lost_records(expected: Mapping[str, int], records: Sequence[Record], step: int, every: int) -> str:
    """`records (9 of training steps) in steps 1 to 9`: what of `expected` up to `step` is not there. Empty: all is.

    `every`: the distance of the records of training steps.
    """
    found = count_records(records)
    lacking = {kind: expected.get(kind.value, 0) - found.get(kind.value, 0) for kind in _NAMES}
    parts = [f"{count} of {_NAMES[kind]}" for kind, count in lacking.items() if count > 0]
    if not parts:
        return ""
    gaps = [*_gaps(records, step, every)] if lacking[In.step] > 0 else []
    shown = ", ".join(gaps[:_MOST_GAPS]) + (", ..." if len(gaps) > _MOST_GAPS else "")
    return f"records ({', '.join(parts)})" + (f" in steps {shown}" if shown else "")


def repeated_records(records: Iterable[Record]) -> str:
    """`2 records are there more than once, first of step 5`. Empty: none is."""
    counts = Counter((record["step"], kind_of(record)) for record in records)
    more = sorted(key for key, count in counts.items() if count > 1)
    return (
        f"{counted(len(more), 'record is', 'records are')} there more than once, first of step {more[0][0]}"
        if more
        else ""
    )


def _gaps(records: Sequence[Record], step: int, every: int) -> Iterator[str]:
    known = {record["step"] for record in records if kind_of(record) == In.step.value}
    for before, behind in pairwise([0, *sorted(known), step + 1]):
        if behind - before > max(every, 1):
            yield f"{before + 1} to {behind - 1}" if behind - before > 2 else str(before + 1)
