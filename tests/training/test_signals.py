"""SIGTERM and SIGINT: save at the next step boundary and leave; the second one leaves at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from est_cli.storage.store import step_folders
from tests.lab.lab import Lab, Plant, outcome

Golden = Callable[..., dict[str, Any]]


def steps(lab: Lab) -> list[int]:
    return [step for step, _ in step_folders(lab.at("x") / "checkpoints")]


PLACES: dict[str, tuple[Plant, int]] = {
    "a step": (("at_step", "est_cli.training.train.train_step", 12, "before"), 13),
    "a micro-batch": (("at", "est_cli.training.step.forward_backward", 14, "before"), 7),
    "an evaluation": (("at", "est_cli.training.validation.target_count", 2, "before"), 4),
    "a save": (("at_fault_point", "write state.json"), 5),
    "the last but one step": (("at_step", "est_cli.training.train.train_step", 28, "after"), 29),
}


@pytest.mark.some(3)
@pytest.mark.parametrize(
    ("place", "number"),
    [*((place, signal.SIGTERM) for place in PLACES), ("a step", signal.SIGINT), ("a save", signal.SIGINT)],
)
def test_saved_at_the_next_boundary(lab: Lab, golden: Golden, place: str, number: signal.Signals) -> None:
    plant, saved = PLACES[place]
    ended = lab.tiny("x", plants=[(*plant, number.name)])
    assert ended.code == 128 + number
    line = f"est-train: stopped: outputs/x: saved at step {saved}; resume=outputs/x continues"
    assert ended.last_words == [line] and "Traceback" not in ended.err
    assert steps(lab)[-1] == saved
    assert not (lab.at("x") / "summary.json").exists()
    ended = lab.train("resume=outputs/x")
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) | {"checkpoints": ...} == golden() | {"checkpoints": ...}


@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT"])
def test_a_second_signal_stops_at_once(lab: Lab, golden: Golden, second: str) -> None:
    first = ("at", "est_cli.training.step.forward_backward", 25, "before", "SIGTERM")
    ended = lab.tiny("x", plants=[first, ("at", "est_cli.training.step.forward_backward", 26, "before", second)])
    assert ended.code == 128 + signal.Signals[second]
    assert len(ended.last_words) == 1 and "before a checkpoint could be saved" in ended.last_words[0]
    assert "Traceback" not in ended.err
    assert steps(lab) == [5, 8, 10] or steps(lab) == [8, 10], "nothing of step 13"
    assert lab.tiny("x").code == 0
    assert outcome(lab.at("x")) == golden()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_first_step_there_is_nothing_to_save(lab: Lab, number: signal.Signals) -> None:
    ended = lab.tiny("x", plants=[("at", "est_cli.training.parts.load_corpus", 1, "before", number.name)])
    assert ended.code == 128 + number and len(ended.last_words) == 1 and "Traceback" not in ended.err
    assert not lab.at("x").exists()


@pytest.mark.parametrize("place", ["the last step", "the end"])
def test_a_run_that_is_done_training_is_finished_first(lab: Lab, golden: Golden, place: str) -> None:
    plant = {
        "the last step": ("at_step", "est_cli.training.train.train_step", 29, "before", "SIGTERM"),
        "the end": ("at", "est_cli.training.finish.save_model", 1, "before", "SIGINT"),
    }[place]
    ended = lab.tiny("x", plants=[plant])
    assert ended.code == 0 and ended.last_words == []
    assert outcome(lab.at("x")) == golden()
