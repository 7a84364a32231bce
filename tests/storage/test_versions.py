"""The commit is that of the tool's own checkout or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from est_cli.storage import versions as module
from est_cli.storage.versions import differences, git_commit, git_dirty, versions


def repository(path: Path) -> str:
    path.mkdir()
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(autouse=True)
def uncached() -> None:
    git_commit.cache_clear()
    git_dirty.cache_clear()


def test_commit_of_the_own_checkout_whatever_git_is_told_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = repository(tmp_path / "own")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "own" / "est_cli" / "storage" / "versions.py"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert git_commit() == commit


def test_no_commit_of_a_repository_that_only_contains_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "user")
    package = tmp_path / "user" / "site-packages" / "est_cli" / "storage"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "versions.py"))
    assert git_commit() is None


def test_no_commit_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "own")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "own" / "est_cli" / "storage" / "versions.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None


def test_differences() -> None:
    assert differences(versions(), versions()) is None
    assert differences({"torch": "1", "numpy": "2"}, {"torch": "3", "numpy": "2"}) == "torch 1 then, 3 now"


def test_dirty_are_changed_files_and_not_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "own"
    repository(root)
    monkeypatch.setattr(module, "__file__", str(root / "est_cli" / "storage" / "versions.py"))
    (root / "new").write_text("x")
    assert git_dirty() is False
    git_dirty.cache_clear()
    subprocess.run(["git", "-C", str(root), "add", "new"], check=True)
    assert git_dirty() is True
    git_dirty.cache_clear()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "elsewhere" / "est_cli" / "storage" / "versions.py"))
    assert git_dirty() is None
