"""What is told of transitions: made-up losses whose means, recoveries and faults are known by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from est_cli.reporting.diagnoses import diagnoses
from est_cli.reporting.stages import described_stages, described_transitions, stage_summaries
from est_cli.reporting.summary import summary_table
from est_cli.tracking.metrics import Record

FULL = {"p_h": 1.0, "p_m": 1.0, "p_l": 1.0}
HALF = {"p_h": 0.5, "p_m": 0.5, "p_l": 0.5}
ALL_TRAINED = {"layers": 0, "heads": 0, "columns": 0}


def records(*stages: list[float], rates: tuple[dict[str, float], ...] = (HALF, FULL)) -> list[Record]:
    """A record of each step; validation losses at the end of each stage, the training loss plus 1."""
    made: list[Record] = []
    step = 0
    for number, losses in enumerate(stages, start=1):
        for index, loss in enumerate(losses):
            step += 1
            place = {"step": step, "stage": number}
            made.append({**place, "loss": loss, "step_s": 0.1, **rates[min(number, len(rates)) - 1]})
            if number > 1 and index == 0:
                made.append({"event": "stage_transition", "step": step, "from_stage": number - 1, "to_stage": number,
                             "loss_before": made[-2].get("loss"), "loss_after": loss})  # fmt: skip
        made.append({"step": step, "val_loss": None if losses[-1] is None else losses[-1] + 1})
    return made


def change(metrics: list[Record]) -> Record:
    [found] = described_transitions(metrics)
    return found


def test_means_of_five_losses_on_each_side() -> None:
    found = change(records([9.0] * 10 + [5.0, 5.2, 5.0, 5.2, 5.1], [4.0, 4.2, 4.0, 4.2, 4.1] + [1.0] * 10))
    assert found["mean_before"] == pytest.approx(5.1) and found["mean_after"] == pytest.approx(4.1)
    assert found["steps_to_recover"] == 0
    assert (found["val_loss_before"], found["val_loss_after"]) == (pytest.approx(6.1), 2.0)
    assert found["loss_after"] == 4.0 and found["step"] == 16  # what the loop has recorded stays


@pytest.mark.parametrize(
    ("after", "steps"),
    [
        ([6.0] * 5 + [5.0] * 20, 10),  # the first five that are all back end at the tenth step
        ([6.0] * 40, None),
        ([4.0, 4.0, 4.0, 4.0, 4.0, 9.0, 9.0], 0),
        ([6.0, 5.5, 5.0, 4.5, 4.0, 3.5], 0),  # their mean is 5: it did not rise
        ([6.0, 5.5, 5.0, 4.5, 4.1, 3.5], 6),
    ],
)
def test_steps_until_the_loss_is_back(after: list[float], steps: int | None) -> None:
    assert change(records([5.0] * 20, after))["steps_to_recover"] == steps


def test_steps_are_steps_and_not_records() -> None:
    """With train.log_every=10 there is a record every ten steps."""
    metrics = records([5.0] * 20, [6.0] * 5 + [5.0] * 20)
    for record in metrics:
        record["step"] *= 10
    assert change(metrics)["steps_to_recover"] == (30 - 21) * 10 + 1


def test_a_resumed_run_may_have_written_a_step_twice() -> None:
    metrics = records([5.0] * 20, [6.0] * 40)
    metrics += [{**record, "loss": 5.0} for record in metrics if record.get("stage") == 2 and "event" not in record]
    assert change(metrics)["steps_to_recover"] == 0


def test_losses_that_were_not_finite_are_left_out() -> None:
    before: list[Any] = [5.0] * 20 + [None]
    assert change(records(before, [4.0] * 10))["mean_before"] == 5.0


def test_a_stage_has_its_last_validation_loss() -> None:
    metrics = records([5.0] * 30, [4.0] * 70)
    first, second = described_stages(stage_summaries(metrics), metrics)
    assert (first["stage"], first["steps"], first["p_h"], first["val_loss"], first["loss"]) == (1, 30, 0.5, 6.0, 5.0)
    assert (second["steps"], second["val_loss"]) == (70, 5.0)


def said(
    *stages: list[float], flops: tuple[float, ...] = (0.5, 1.0), untrained: dict[str, int] | None = None, **kwargs: Any
) -> list[str]:
    metrics = records(*stages, **kwargs)
    told = described_stages(stage_summaries(metrics), metrics)
    return diagnoses(told, described_transitions(metrics), flops, untrained or ALL_TRAINED)


def falling(begin: float, end: float, steps: int) -> list[float]:
    """A line with some noise."""
    return [begin + (end - begin) * n / (steps - 1) + 0.01 * (-1) ** n for n in range(steps)]


def test_nothing_is_wrong_with_a_run_as_in_the_paper() -> None:
    assert said(falling(9, 6, 20), falling(5.8, 5, 50), falling(4.8, 4, 80), flops=(0.25, 0.5, 1.0),
                rates=(HALF, {**HALF, "p_l": 1.0}, FULL)) == []  # fmt: skip
    assert said(falling(9, 4, 100), rates=(HALF,)) == []  # one stage: nothing to say


def test_a_rise_that_comes_back_and_one_that_does_not() -> None:
    [line] = said(falling(9, 5, 60), [5.6] * 10 + falling(5, 4, 80))
    assert line.startswith("stage 1 to 2 (step 61): the training loss rose from 5.1")
    assert line.endswith("; back after 14 steps")  # one of the five may still be high
    lines = said(falling(9, 5, 60), falling(6, 5.7, 80))
    assert lines[0].endswith("; it never came back") and not any("next transition" in line for line in lines)
    assert not any("rose" in line for line in said([5.0, 5.6] * 30, [5.2, 5.7] * 40))  # within the noise


def test_a_final_stage_without_gain() -> None:
    lines = said(falling(9, 5, 60), falling(5, 5, 60))
    assert lines == ["final stage: no gain; the validation loss was 5.9900 before it and 5.9900 at its end"]


def test_a_final_stage_that_is_too_short() -> None:
    [line] = said(falling(9, 5, 90), falling(4.9, 4, 10))
    assert line == "final stage: too short with 10 of 100 steps (10 %); the paper's has 53 %"


def test_a_run_that_never_trains_the_complete_model() -> None:
    for last in (HALF, {**FULL, "p_l": 0.75}, {**FULL, "p_h": 0.75}, {**FULL, "p_m": 0.75}):
        [line] = said(falling(9, 5, 50), falling(4.9, 4, 50), rates=(HALF, last))
        assert line == "stage 2: the run ends without a stage that trains the complete model"


def test_transitions_that_come_too_often() -> None:
    lines = said([9.0], falling(7.9, 5, 99), falling(4.8, 4, 100), flops=(0.25, 0.5, 1.0))
    assert lines == ["stage 1: too short with 1 of 200 steps; transitions are too frequent below 2 % of the run"]
    lines = said(falling(9, 6, 40), [7.0] * 10, falling(7, 4, 60), flops=(0.25, 0.5, 1.0))
    assert (
        "stage 1 to 2 (step 41): the next transition came before the loss was back; transitions are too frequent"
        in lines
    )


def test_transitions_that_add_too_much_at_once() -> None:
    [line] = said(falling(9, 5, 60), falling(4.8, 4, 60), flops=(0.25, 1.0))
    assert line == (
        "stage 1 to 2 (step 61): adds 75 % of the model's block FLOPs at once; transitions are too sparse above 60 %"
    )


@pytest.mark.parametrize(("after", "told"), [([6.0] * 40, "never"), ([6.0] * 5 + [5.0] * 9, "10"), ([None], "-")])
def test_the_table_tells_a_loss_that_is_not_known_from_one_that_never_came_back(after: list[Any], told: str) -> None:
    changes = described_transitions(records([5.0] * 20, after))
    out = io.StringIO()
    Console(file=out, width=100).print(summary_table({"transitions": changes}, [], Path("x"), plain=True))
    [row] = [line.split() for line in out.getvalue().splitlines() if "1 to 2" in line]
    assert row[-2] == told


def test_units_that_nobody_trained() -> None:
    assert said(falling(9, 5, 60), rates=(HALF,), untrained={**ALL_TRAINED, "columns": 3}) == [
        "3 columns were never trained"
    ]
