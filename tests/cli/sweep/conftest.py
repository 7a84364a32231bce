from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from est_cli.cli.sweep import run_job
from est_cli.config import compose
from tests.lab.eval_lab import EvalLab, prepare
from tests.lab.sweep_lab import Lab


@pytest.fixture(scope="package", autouse=True)
def _composed_once() -> Iterator[None]:
    """Hydra composes a command line once: a sweep has few different ones, and several tests type the same."""
    patch, real = pytest.MonkeyPatch(), compose._composed
    remembered = cache(lambda name, schema, args: real(name, schema, list(args), None))

    def composed(name: str, schema: type, args: list[str], config_dir: str | None) -> Any:
        return remembered(name, schema, tuple(args)) if config_dir is None else real(name, schema, args, config_dir)

    patch.setattr(compose, "_composed", composed)
    yield
    patch.undo()


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
