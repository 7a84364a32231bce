"""Processes on other machines see a run's folder through a network file system, some time after it was made."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import RunConfig
from est_cli.training import folder
from est_cli.training.start import Start


class SecondOfTwo:
    """A group as its second process knows it; rank 0 has said `told`."""

    rank = Rank(1, 2)

    def __init__(self, told: Path) -> None:
        self.told = told

    def share(self, value: Any) -> str:
        return str(self.told)


def owned(run: Path) -> Any:
    return folder.owned_folder(Start(SimpleNamespace(config=RunConfig()), None), SecondOfTwo(run))  # type: ignore[arg-type]


def test_a_folder_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    run = tmp_path / "x"
    run.mkdir()
    late = threading.Timer(0.3, (run / "config.yaml").write_text, ["seed: 1"])
    late.start()
    with owned(run) as run_dir:
        assert run_dir.root == run and run_dir.config.exists()
    late.join()


def test_a_folder_that_never_shows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "SHOWN_WITHIN_S", 0.0)
    with (
        pytest.raises(ConfigError, match=r"x: is not here for rank 1; all must see one file system"),
        owned(tmp_path / "x"),
    ):
        pass
