"""tracking.also in whole runs: killed and continued, on a disk that refuses, and beside the bits of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.lab import Lab, outcome
from tests.lab.wandb_file import history
from tests.tracking.test_also import shown, wanted
from tests.training.test_spikes import BAD, PLACE, REWIND, SPIKE

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


def test_event_files_forget_the_steps_that_a_rewind_undoes(lab: Lab) -> None:
    ended = lab.tiny("x", ALSO, *REWIND, plants=[BAD])
    assert ended.code == 0 and "failed" not in ended.err, ended.err
    assert shown(lab.at("x")) == wanted(lab.at("x"))


@pytest.mark.long
def test_wandb_offline_begins_a_second_part_behind_the_checkpoint(lab: Lab) -> None:
    ended = lab.tiny("x", "tracking.wandb=offline", *REWIND, plants=[BAD])
    assert ended.code == 0 and "failed" not in ended.err, ended.err
    assert "W&B       wandb sync outputs/x/wandb/offline-run-*" in ended.out
    parts = [history(path) for path in sorted(lab.folder.rglob("offline-run-*/*.wandb"))]
    first, second = ([row["_step"] for row in part if "train/loss" in row] for part in parts)
    assert first == [*range(1, SPIKE + 2)] and second == [*range(PLACE + 1, 31)]
    assert parts[1][0]["train/from_step"] == SPIKE + 1
