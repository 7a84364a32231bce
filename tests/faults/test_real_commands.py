"""A5: kill -9 of est-train as a user starts it, and of `accelerate launch` around two of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.launch.test_real import workers
from tests.faults.conftest import Tally
from tests.faults.size import only_full
from tests.faults.victims import INTERVAL, Golden, assert_same, work_lost
from tests.lab.lab import ENVIRONMENT, STEPS, Lab, outcome, sha256_of, train_records

pytestmark = [only_full, pytest.mark.row("A5")]

BIN = Path(sys.executable).parent
ACCELERATE = (
    f"{BIN / 'accelerate'} launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0 -m est_cli.train"
).split()
WAIT_S = 120.0


def start(lab: Lab, *program: str, name: str) -> subprocess.Popen[str]:
    """In a process group of its own, with its progress in NAME.txt."""
    with (lab.folder / f"{name}.txt").open("a") as told:
        return subprocess.Popen(
            [*program, *lab.arguments(f"run_name={name}", "resume=auto", "launch.timeout_s=20")],
            cwd=lab.folder, env=ENVIRONMENT, stdout=told, stderr=told, text=True, start_new_session=True,
        )  # fmt: skip


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def records(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def end(process: subprocess.Popen[str]) -> int:
    """The exit code, when no process of its group is left."""
    try:
        return process.wait(WAIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_four_times(lab: Lab, golden: Golden, tally: Tally, seed: int) -> None:
    """While it imports, and after more and more of its records: in each stage, in a save or at the end."""
    rng, run = random.Random(seed), lab.at("x")
    process = start(lab, str(BIN / "est-train"), name="x")
    time.sleep(rng.uniform(0.1, 2.0))
    process.kill()
    assert end(process) == -signal.SIGKILL
    tally(kills=1)
    for stage in range(3):
        due = records(run) + rng.randint(1, 10)
        process = start(lab, str(BIN / "est-train"), name="x")
        lines = due if stage else max(due, 1)
        wait_for(process, lambda lines=lines: records(run) >= lines)
        process.kill()
        if end(process) == 0:
            break
        assert work_lost(run) <= INTERVAL
        tally(kills=1, lost=work_lost(run))
    process = start(lab, str(BIN / "est-train"), name="x")
    assert end(process) == 0, (lab.folder / "x.txt").read_text()
    assert "Traceback" not in (lab.folder / "x.txt").read_text()
    assert_same(outcome(run), golden())


def test_accelerate_launch_killed_four_times(lab: Lab, tally: Tally) -> None:
    """One worker of two, then the launcher with both of them; each twice."""
    assert [ended.code for ended in lab.tiny_ranks(2, "whole")] == [0, 0]
    run = lab.at("x")
    for kill, victim in enumerate(("rank 1", "rank 0", "all", "all")):
        due = records(run) + 3 + kill
        process = start(lab, *ACCELERATE, name="x")
        wait_for(process, lambda due=due: records(run) >= due)
        assert process.poll() is None, (lab.folder / "x.txt").read_text()
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(workers(process.pid)[int(victim[-1])], signal.SIGKILL)
        assert end(process) != 0
        assert work_lost(run) <= INTERVAL
        tally(kills=1, lost=work_lost(run))
    process = start(lab, *ACCELERATE, name="x")
    assert end(process) == 0, (lab.folder / "x.txt").read_text()
    assert [record["loss"] for record in train_records(run)] == [
        record["loss"] for record in train_records(lab.at("whole"))
    ]
    assert sha256_of(run, STEPS) == sha256_of(lab.at("whole"), STEPS)
