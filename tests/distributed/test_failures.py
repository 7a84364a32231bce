"""A process that is killed or stopped ends the run everywhere, within the timeout, and harms no checkpoint."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from est_cli.common.errors import PeerLostError
from est_cli.distributed.group import peers_answer
from est_cli.storage.store import newest_valid, step_folders
from tests.distributed.test_training import SHORT
from tests.lab.lab import Ended, Lab, Plant, sha256_of
from tests.lab.standin import wait_until

TIMEOUT_S = 6.0
POINTS: dict[str, Plant] = {
    "before a step": ("at_step", "est_cli.training.train.train_step", 9, "before"),
    "between micro-batches": ("at", "est_cli.training.step.forward_backward", 20, "before"),
    "before gradients are put together": ("at", "est_cli.training.step.step_header", 10, "before"),
    "in a save": ("at", "est_cli.training.save.take_snapshot", 2, "after"),
    "in an evaluation": ("at", "est_cli.training.evaluation.validation_loss", 2, "before"),
    "at the end": ("at", "est_cli.training.finish.is_intact", 1, "before"),
}
STRATEGY = {"SIGKILL": "ddp", "SIGSTOP": "fsdp"}


CASES = [
    *((rank, "SIGKILL", half) for rank in (0, 1) for half in (0, 1)),
    *((0, "SIGSTOP", 1), (1, "SIGSTOP", 0)),
    *(pytest.param(*case, marks=pytest.mark.long) for case in ((0, "SIGSTOP", 0), (1, "SIGSTOP", 1))),
]


@pytest.mark.some(2)
@pytest.mark.parametrize(("rank", "signum", "half"), CASES)
def test_a_lost_process_ends_the_run(lab: Lab, rank: int, signum: str, half: int) -> None:
    """Three points at once, since most of the time is waiting."""
    points = list(POINTS.items())[3 * half : 3 * half + 3]
    settings = (*SHORT, "train.micro_batch=2", f"launch.strategy={STRATEGY[signum]}", f"launch.timeout_s={TIMEOUT_S}")
    started = {}
    for number, (point, plant) in enumerate(points):
        arguments = lab.arguments(f"run_name=x{number}", *settings)
        started[point] = lab.start_ranks(2, *arguments, plants={rank: [(*plant, signum)]}, name=f"x{number}-")
    for pids in started.values():
        wait_until(lambda pid=pids[rank]: _state(pid) in ("Z", "T"), 90.0)
    began = time.monotonic()
    for number, (point, pids) in enumerate(started.items()):
        survivor = lab.ended(pids[1 - rank], f"x{number}-rank{1 - rank}-")
        assert time.monotonic() - began < TIMEOUT_S + 10, point
        os.kill(pids[rank], signal.SIGKILL)
        assert lab.ended(pids[rank], f"x{number}-rank{rank}-").code == -signal.SIGKILL
        _assert_survived(lab.at(f"x{number}"), survivor, point)


def _assert_survived(run: Path, survivor: Ended, point: str) -> None:
    finished = survivor.code == 0 and point == "at the end" and (run / "summary.json").exists()
    assert finished or survivor.code == 7, (point, survivor.err)
    if not finished:
        assert len(survivor.last_words) == 1 and "launch.timeout_s" in survivor.last_words[0], survivor.err
    warnings: list[str] = []
    assert newest_valid(run / "checkpoints", warnings.append) is not None and warnings == []
    assert not [path for path in run.rglob(".tmp-*") if survivor.code == 0]


@pytest.mark.long
def test_what_is_left_continues_bit_for_bit(lab: Lab) -> None:
    settings = (*SHORT, "train.micro_batch=2")
    assert [ended.code for ended in lab.tiny_ranks(2, "whole", *settings)] == [0, 0]
    for point, rank in (("in a save", 0), ("before gradients are put together", 1)):
        killed = lab.tiny_ranks(2, "x", *settings, plants={rank: [(*POINTS[point], "SIGKILL")]})
        assert {ended.code for ended in killed} == {-9, 7}
    assert [ended.code for ended in lab.tiny_ranks(2, "x", *settings)] == [0, 0]
    assert sha256_of(lab.at("x"), 20) == sha256_of(lab.at("whole"), 20)
    steps = [step for step, _ in step_folders(lab.at("x") / "checkpoints")]
    assert steps == [step for step, _ in step_folders(lab.at("whole") / "checkpoints")]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_signal_stops_all_at_the_same_step(lab: Lab, rank: int) -> None:
    stop = ("at_step", "est_cli.training.train.train_step", 9, "before", "SIGTERM")
    ended = lab.tiny_ranks(2, "x", *SHORT, "train.micro_batch=2", plants={rank: [stop]})
    assert [each.code for each in ended] == [143, 143]
    assert "saved at step 10" in ended[0].last_words[0]


def test_an_error_of_one_is_told_by_that_one(lab: Lab) -> None:
    full = ("at", "est_cli.training.step.forward_backward", 9, "before", "out of memory")
    ended = lab.tiny_ranks(2, "x", *SHORT, "train.micro_batch=2", plants={1: [full]})
    assert [each.code for each in ended] == [7, 9]
    assert "train.micro_batch: out of memory" in ended[1].last_words[0]


def test_a_save_that_cannot_begin_is_a_warning(lab: Lab) -> None:
    """Under FSDP all processes put a checkpoint together: none may stay away because it could not be written."""
    plants = {0: [("records_not_synced", 3)]}
    ended = lab.tiny_ranks(2, "x", *SHORT, "launch.strategy=fsdp", plants=plants)
    assert [each.code for each in ended] == [0, 0], ended[1].err
    assert "warning: no checkpoint at step 6" in ended[0].err


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    "told",
    [
        "Application timeout caused pair closure",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1",
        "[Rank 0]: Rank 1 failed to pass monitoredBarrier in 6000 ms",
    ],
)
def test_what_torch_says_of_a_lost_process_is_known(told: str) -> None:
    """All seen; which one it is depends on who gives up first, and for the first one on a busy machine."""
    with pytest.raises(PeerLostError, match=r"^(another process|rank 1): died, or did not answer"), peers_answer(6.0):
        raise RuntimeError(told)
    with pytest.raises(RuntimeError, match=r"^shapes"), peers_answer(6.0):
        raise RuntimeError("shapes do not fit")
