"""tracking.also in whole runs: killed and continued, on a disk that refuses, and beside the bits of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.lab.lab import Lab, outcome
from tests.tracking.test_also import shown, wanted

ALSO = "tracking.also=[tensorboard]"


def test_event_files_follow_a_run_that_is_killed(lab: Lab, golden: Callable[..., dict[str, Any]]) -> None:
    killed = ("at_step", "est_cli.training.train.train_step", 13, "before", "SIGKILL")
    assert lab.tiny("x", ALSO, plants=[killed]).code == -9
    ended = lab.tiny("x", ALSO)
    assert ended.code == 0, ended.err
    assert shown(lab.at("x")) == wanted(lab.at("x"))
    assert outcome(lab.at("x")) == golden()


def test_a_place_that_cannot_be_written_costs_one_line(lab: Lab) -> None:
    short = ("train.max_steps=6", "stage.t1=2", "stage.t2=4")
    plant = ("at", "est_cli.tracking.also.cut_back", 1, "before", "out of memory")
    ended = lab.tiny("x", *short, ALSO, plants=[plant])
    assert ended.code == 0, ended.err
    assert "tensorboard: failed (" in ended.err and (lab.at("x") / "summary.json").exists()
