"""The installed command with two real workers: to the end, and with one of them killed or stopped on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from est_cli.storage.store import newest_valid
from tests.lab.lab import ENVIRONMENT, write_corpus

SETTINGS = (
    *("launch.num_processes=2", "launch.timeout_s=4", "train.max_steps=4000", "stage.t1=10", "stage.t2=20"),
    *("train.checkpoint_every=20", "train.eval_every=0", "train.seq_len=32", "train.tokens_per_step=128"),
    *("train.micro_batch=1", "model.vocab_size=300", "model.hidden_size=32", "model.max_positions=32", "dataset=text"),
    *("dataset.files=corpus.jsonl", "dataset.validation_fraction=0.3", "tracking.wandb=off", "run_name=x"),
)


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("est-train")), *settings]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_steps(run: Path, steps: int) -> None:
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(launcher: int) -> dict[int, int]:
    """Rank -> process id of the children of `launcher`."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if path.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(launcher):
                names = dict(item.split("=", 1) for item in path.joinpath("environ").read_text().split("\0") if item)
                found[int(names["RANK"])] = int(path.name)
        except OSError:
            continue  # it has ended meanwhile
    return found


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for the workers in /proc")
@pytest.mark.parametrize(
    ("rank", "signum"), [(1, signal.SIGKILL), pytest.param(0, signal.SIGSTOP, marks=pytest.mark.long)]
)
def test_a_lost_worker_is_named_and_the_run_can_go_on(tmp_path: Path, rank: int, signum: int) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    launcher = start(tmp_path, *SETTINGS)
    run = tmp_path / "outputs" / "x"
    wait_for_steps(run, 30)
    alive = workers(launcher.pid)
    assert sorted(alive) == [0, 1]
    os.kill(alive[rank], signum)
    began = time.monotonic()
    err = launcher.communicate(timeout=60)[1]
    assert time.monotonic() - began < 4 + 10
    told = [line for line in err.splitlines() if line.startswith("est-train:")]
    what = "killed by SIGKILL" if signum == signal.SIGKILL else "stopped"
    assert launcher.returncode == 7 and len(told) == 1, err
    assert told[0].startswith(f"est-train: error: rank {rank}: {what}") and "resume=outputs/x" in told[0], told
    assert not any(Path(f"/proc/{pid}").exists() for pid in alive.values())
    found = newest_valid(run / "checkpoints", pytest.fail)
    assert found is not None
    if signum != signal.SIGKILL:
        return  # once is enough: what is left is the same
    going_on = start(tmp_path, "resume=outputs/x", "launch.num_processes=1")
    wait_for_steps(run, 60)
    going_on.send_signal(signal.SIGTERM)
    assert "saved at step" in going_on.communicate(timeout=60)[1] and going_on.returncode == 143
