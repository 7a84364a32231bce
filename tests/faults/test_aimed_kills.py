"""A3: kill -9 at chosen points, one after the other in one run, which then comes to the same last bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.faults.victims import PASS, STEP, UPDATE, Golden, assert_continues, killed, resumed_from
from tests.lab.lab import STEPS, T1, T2, Lab, Plant

FINISH, TENSORS = "est_cli.training.finish", "est_cli.storage.tensors"


def around(boundary: int) -> list[Plant]:
    """The last update of a stage, the save behind it, and what comes next: the first step of a stage, or the end."""
    after: Plant = ("at", "est_cli.training.train.finish", 1, "before")
    return [
        ("at_step", UPDATE, boundary - 1, "before"),
        ("at_step", UPDATE, boundary - 1, "after"),
        ("at_fault_point", f"rename .tmp-step-{boundary:06d}"),
        ("at_step", STEP, boundary, "after") if boundary < STEPS else after,
    ]


POINTS: dict[str, list[Plant]] = {
    "stage 1 to 2": around(T1),
    "stage 2 to 3": around(T2),
    "stage 3 to the end": around(STEPS),
    "evaluation": [
        ("at", "est_cli.training.validation.target_count", 1, "before"),
        ("at", "est_cli.training.validation.target_count", 3, "after"),
        ("at", "est_cli.training.evaluation.validation_loss", 2, "after"),
        ("at", "est_cli.training.train.evaluate", 2, "after"),
    ],
    "save": [
        ("at_fault_point", "mkdir .tmp-step"),
        ("at_fault_point", "fsync optim.safetensors"),
        ("at_fault_point", "write MANIFEST.json"),
        ("at_fault_point", "rename .tmp-step-000010"),
        ("at_fault_point", "fsync checkpoints/"),
        ("at_fault_point", "rename step-"),
        ("at_fault_point", "rmdir .trash-step"),
    ],
    "export of the model and the end": [
        ("at", f"{FINISH}.save_model", 1, "before"),
        ("at_fault_point", "rename .tmp-model"),
        ("at_fault_point", "write .tmp-README.md"),
        ("at_fault_point", "replace README.md"),
        ("at_fault_point", "replace summary.json"),
        ("at", f"{FINISH}.plot_run", 1, "after"),  # the summary is there by then, and a start draws what is missing
    ],
    "load": [
        ("at_step", STEP, 12, "before"),
        ("at", f"{TENSORS}.check_weights", 1, "before"),
        ("at", f"{TENSORS}.load_weights", 1, "after"),
        ("at", f"{TENSORS}.load_optimizer", 1, "after"),
        ("at_fault_point", "write .tmp-metrics.jsonl"),
    ],
}


@only_full
@pytest.mark.row("A3")
@pytest.mark.parametrize("where", POINTS)
def test_killed_at_chosen_points(lab: Lab, golden: Golden, tally: Tally, where: str) -> None:
    """The short part is tests/training/test_resume.py."""
    for plant in POINTS[where]:
        killed(lab, "x", plant)
        tally(kills=1)
    assert_continues(lab, golden, "x")


def micro_steps(step: int) -> Iterator[int]:
    """After the 1st, 2nd and 3rd of the four micro-batches of a step."""
    for number in (1, 2, 3):
        yield 4 * step + number


@pytest.mark.row("A3")
@pytest.mark.parametrize("step", either([2, T1, 14, T2], [14]))
def test_killed_between_micro_batches(lab: Lab, golden: Golden, tally: Tally, step: int) -> None:
    cut = "train.micro_batch=1"
    for call in micro_steps(step):
        begun = resumed_from(lab.at("x"))
        killed(lab, "x", ("at", PASS, call - 4 * begun, "after"), cut)
        tally(kills=1)
    assert_continues(lab, golden, "x", cut)
