from __future__ import annotations

from pathlib import Path

import pytest

from est_cli.cli.sweep import run_job
from tests.lab.eval_lab import EvalLab, prepare
from tests.lab.sweep_lab import Lab


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lab:
    """A current folder in which jobs do not train: what becomes of them is planted."""
    monkeypatch.chdir(tmp_path)
    lab = Lab(tmp_path, capsys)
    monkeypatch.setattr(run_job, "run_child", lab.run_child)
    return lab


@pytest.fixture
def eval_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> EvalLab:
    """A current folder with two models and the data of SST-2 and MRPC, in which jobs do not fine-tune."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    lab = EvalLab(tmp_path, capsys)
    monkeypatch.setattr(run_job, "run_child", lab.run_child)
    return lab
