"""Records that are not there any more, and which steps they were of."""

from __future__ import annotations

from typing import Any

import pytest

from est_cli.tracking import Ending, Tracker, count_records, lost_records, repeated_records
from est_cli.tracking.metrics import MetricsFile
from est_cli.tracking.records import In


def records(last: int = 12, every: int = 1) -> list[dict[str, Any]]:
    """Of a run with a validation every four steps and a change of stage at step 7."""
    steps = [{"step": step, "loss": 1.0} for step in range(every, last + 1, every)]
    held = [{"step": step, "val_loss": 1.0} for step in range(4, last + 1, 4)]
    return [*steps, *held, {"step": 7, "event": "stage_transition"}]


def test_what_is_whole_lacks_nothing() -> None:
    assert count_records(records()) == {"step": 12, "validation": 3, "stage_transition": 1}
    assert lost_records(count_records(records()), records(), 12, 1) == ""
    assert lost_records(count_records(records()), records() * 2, 12, 1) == ""
    assert lost_records({}, records(), 12, 1) == ""


@pytest.mark.parametrize(
    ("kept", "every", "message"),
    [
        (lambda record: False, 1, "(12 of training steps, 3 of validations, 1 of transitions) in steps 1 to 12"),
        (lambda record: record["step"] <= 8, 1, "(4 of training steps, 1 of validations) in steps 9 to 12"),
        (lambda record: record["step"] not in (5, 6), 1, "(2 of training steps) in steps 5 to 6"),
        (lambda record: record["step"] % 3, 1, "(4 of training steps, 1 of validations) in steps 3, 6, 9, ..."),
        (lambda record: "val_loss" not in record, 1, "(3 of validations)"),
        (lambda record: record["step"] != 8, 2, "(1 of training steps, 1 of validations) in steps 7 to 9"),
    ],
)
def test_gaps_are_named(kept: Any, every: int, message: str) -> None:
    whole = records(every=every)
    assert lost_records(count_records(whole), [*filter(kept, whole)], 12, every) == f"records {message}"


def test_the_tracker_counts_what_it_writes(tmp_path: Any) -> None:
    counts: dict[str, int] = {"step": 3}
    tracker = Tracker(MetricsFile(tmp_path / "metrics.jsonl"), None, counts)
    tracker.train({"step": 4, "loss": 1.0})
    tracker.validation({"step": 4, "val_loss": 1.0})
    tracker.event(In.not_finite, {"step": 4, "first_sample": 0, "samples": 1})
    tracker.close(Ending())
    assert counts == {"step": 4, "validation": 1, "not_finite": 1}


def test_records_that_are_there_twice_are_told() -> None:
    assert repeated_records(records()) == ""
    again = [record for record in records() if record["step"] == 8]
    assert repeated_records([*records(), *again]) == "2 records are there more than once, first of step 8"
