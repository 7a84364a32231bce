"""The real command in real processes: stopped, continued, and still the same to the last bit.

Killed ones are victims of the fork server (test_resume.py), and real commands in tests/faults/test_real_commands.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import ENVIRONMENT, Lab, outcome


def start(lab: Lab) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "est_cli.train", *lab.arguments("run_name=x", "resume=auto")]
    return subprocess.Popen(
        command, cwd=lab.folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 100, f"{path} never came"
        time.sleep(0.002)


@pytest.mark.long
def test_sigterm_then_to_the_end(lab: Lab, golden: Callable[..., dict[str, Any]]) -> None:
    checkpoints = lab.at("x") / "checkpoints"
    with start(lab) as first:
        wait_for(checkpoints / "step-000005")
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate()
    assert first.returncode == 143
    assert [line for line in err.splitlines() if line.startswith("est-train:")] == err.splitlines()[-1:]
    with start(lab) as last:
        out, err = last.communicate()
    assert last.returncode == 0, err
    assert "final validation loss" in out and "resumed   after step" in err
    assert outcome(lab.at("x")) == golden()
