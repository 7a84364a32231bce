"""The real command in real processes: killed in the middle of a sweep, typed again, and nothing is trained twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from est_cli.tracking.metrics import read_metrics
from tests.lab.lab import ENVIRONMENT, TINY, write_corpus
from tests.lab.sweep_lab import column, results

STEPS = 60


def start(folder: Path) -> subprocess.Popen[str]:
    fixed = [arg for arg in TINY if not arg.startswith(("stage.", "train.max_steps"))]
    fixed += [f"dataset.files={folder / 'corpus.jsonl'}", f"train.max_steps={STEPS}", "sweep=s"]
    command = [sys.executable, "-m", "est_cli.train", "-m", *fixed, "stage.t1=0.2", "stage.t2=0.4,0.3,0.15"]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.long
@pytest.mark.slow
def test_killed_in_the_middle_and_typed_again(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    sweep = tmp_path / "outputs" / "s"
    first, second = sweep / "t2=0.4", sweep / "t2=0.3"
    with start(tmp_path) as killed:
        wait_for(second / "checkpoints" / "step-000005")
        killed.kill()  # and with it its job
    assert killed.returncode == -signal.SIGKILL and not (second / "summary.json").exists()
    assert column(results(sweep), "status") == ["done", "not run", "skipped"]
    before = (first / "summary.json").stat()

    with start(tmp_path) as again:
        out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    rows = results(sweep)
    assert column(rows, "status") == ["done before", "done", "skipped"]
    assert column(rows, "steps") == [str(STEPS)] * 2 + [""] and len(out.splitlines()) == 6
    assert (first / "summary.json").stat() == before
    assert err.count("resumed   after step") == 1 and err.count("\njob ") == 1
    for run in (first, second):
        steps = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
        assert steps == list(range(1, STEPS + 1))


def wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 100, f"{path} never came"
        time.sleep(0.002)
