"""--version of every command: at once, and whatever else does not work."""

from __future__ import annotations

from pathlib import Path

import pytest

import est_cli
from tests.lab.commands import POISON, command, poisoned_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["est-train", "est-plan", "est-eval", "est-analyze", "est-report", "est-data", "est-push"]
)
@pytest.mark.parametrize("beside", [(), ("no_such_key=1",)])
def test_the_version_is_told_without_importing_anything(tmp_path: Path, name: str, beside: tuple[str, ...]) -> None:
    poison = poisoned_path(tmp_path / "poison")
    (tmp_path / "poison" / "hydra.py").write_text(POISON)
    (tmp_path / "empty").mkdir()
    ended = command(name, "--version", *beside, cwd=tmp_path / "empty", PYTHONPATH=poison)
    assert (ended.code, ended.out, ended.err) == (0, f"est-cli {est_cli.__version__}\n", "")
    assert ended.cpu_s < 1.0
    assert list((tmp_path / "empty").iterdir()) == []
