"""The real est-eval in real processes: killed in the middle of a sweep, typed again, and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.glue_folder import make_glue
from tests.lab.small_models import save
from tests.lab.sweep_lab import column, results

SETTINGS = ("eval.data_dir=glue", "eval.batch_size=4", "eval.lr=choice(1e-3)", "tracking.wandb=off", "sweep=s")


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "est_cli.eval", "-m", "checkpoint=model", "task=sst2,mrpc", *SETTINGS, *args]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


@pytest.mark.slow
@pytest.mark.long
def test_killed_in_the_middle_and_typed_again(tmp_path: Path) -> None:
    """The second command has two processes for the job: how a job is run does not make it another one."""
    save(tmp_path / "model")
    make_glue(tmp_path / "glue", names=["sst2", "mrpc"])
    sweep = tmp_path / "outputs" / "s"
    job = sweep / "lr=0.001"
    with start(tmp_path) as killed:
        wait_for(job / "results.json")
        killed.kill()  # and with it its job
    assert killed.returncode == -signal.SIGKILL and not (job / "summary.json").exists()
    assert column(results(sweep), "status") == ["not run"]
    kept = records(job)
    assert 0 < len(kept) < 6

    with start(tmp_path, "launch.num_processes=2") as again:
        out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert f"sst2, mrpc: 6 fine-tunings, {len(kept)} of them already in outputs/s/lr=0.001" in err
    assert records(job)[: len(kept)] == kept and len(records(job)) == 6
    rows = results(sweep)
    assert column(rows, "status") == ["done"] and column(rows, "seeds") == ["3"]
    assert out.splitlines()[0].strip() == "Sweep outputs/s" and len(out.splitlines()) == 4
    found = json.loads((job / "summary.json").read_text())
    assert float(rows[0]["mrpc"]) == found["mrpc"] == mean(job, "mrpc")


def records(folder: Path) -> list[dict[str, object]]:
    return list(json.loads((folder / "results.json").read_text())["records"])


def mean(folder: Path, task: str) -> float:
    (summary,) = json.loads((folder / "results.json").read_text())["summaries"]
    return float(summary["tasks"][task]["mean"])


def wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 100, f"{path} never came"
        time.sleep(0.002)
