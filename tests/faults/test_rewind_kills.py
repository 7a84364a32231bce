"""A9: SIGKILL in every phase of a run that goes back from a spike to its last checkpoint (train.on_spike=rewind)."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.faults.victims import INTERVAL, assert_same, finished, work_lost
from tests.lab.lab import Lab, Plant
from tests.training.test_spikes import BAD, PLACE, REWIND, SPIKE

pytestmark = pytest.mark.row("A9")

STEP = "est_cli.training.train.train_step"
BACK = "est_cli.training.rewind"
AGAIN = SPIKE + 2
"""The first call (from 1) that launches a step after the run has gone back."""

PHASES: dict[str, Plant] = {
    "the spike is launched": ("at_step", STEP, SPIKE, "after"),
    "it is told": ("at", "est_cli.training.train.go_back", 1, "before"),
    "the place is found": ("at", f"{BACK}.place_before", 1, "after"),
    "the checkpoint is verified": ("at", "est_cli.training.folder.load_checkpoint", 1, "before"),
    "weights are loaded": ("at", "est_cli.storage.tensors.load_weights", 1, "after"),
    "moments are loaded": ("at", "est_cli.storage.tensors.load_optimizer", 1, "after"),
    "the state is there": ("at", f"{BACK}.restored_state", 1, "after"),
    "the records are about to be cut": ("at_fault_point", "replace metrics.jsonl"),
    "the records are cut": ("at", "est_cli.training.tracker._tell_lost", 2, "before"),
    "the run stands there again": ("at", f"{BACK}._take_over", 1, "after"),
    "the event is told": ("at", "est_cli.training.train.go_back", 1, "after"),
    "the first step again": ("at", STEP, AGAIN, "after"),
    "before the next save": ("at", STEP, AGAIN + 25 - PLACE - 1, "after"),
    "in the next save": ("at_fault_point", "rename .tmp-step-000025"),
    "behind the next save": ("at", STEP, AGAIN + 25 - PLACE, "before"),
    "at the end": ("at", "est_cli.training.train.finish", 1, "before"),
}


@pytest.fixture(scope="module")
def whole(shared: Lab) -> dict[str, Any]:
    """The outcome of the run that goes back and is not interrupted."""
    found = finished(shared, "rewound", *REWIND, plants=[BAD])
    assert found["summary"]["rewinds"] == 1
    return found


SHORT = ["moments are loaded", "the records are cut", "in the next save"]


@pytest.mark.parametrize("phase", either(list(PHASES), SHORT))
def test_killed_at_a_chosen_point(lab: Lab, whole: dict[str, Any], tally: Tally, phase: str) -> None:
    ended = lab.tiny("x", *REWIND, plants=[BAD, (*PHASES[phase], "SIGKILL")])
    assert ended.code == -signal.SIGKILL, ended.err
    tally(kills=1, lost=work_lost(lab.at("x")))
    assert_same(finished(lab, "x", *REWIND, plants=[BAD]), whole)


def test_killed_again_on_its_way_back(lab: Lab, whole: dict[str, Any], tally: Tally) -> None:
    """Each start comes to the same spike, and goes back again."""
    for _ in range(either(3, 2)):
        ended = lab.tiny("x", *REWIND, plants=[BAD, ("at", f"{BACK}._take_over", 1, "after", "SIGKILL")])
        assert ended.code == -signal.SIGKILL, ended.err
        tally(kills=1)
    assert_same(finished(lab, "x", *REWIND, plants=[BAD]), whole)


@only_full
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(lab: Lab, whole: dict[str, Any], tally: Tally, seed: int) -> None:
    rng, arguments = random.Random(seed), lab.arguments("run_name=x", "resume=auto", *REWIND)
    slow: Plant = ("at", f"{BACK}._take_over", 1, "before", "pause")
    for _ in range(6):
        pid = lab.start(*arguments, plants=[("quick",), BAD, slow])
        time.sleep(rng.uniform(0.5, 2.5))
        os.kill(pid, signal.SIGKILL)
        if lab.ended(pid).code != -signal.SIGKILL:
            break
        lost = work_lost(lab.at("x")) if lab.at("x").exists() else 0
        assert lost <= INTERVAL
        tally(kills=1, lost=lost)
    assert_same(finished(lab, "x", *REWIND, plants=[BAD]), whole)
