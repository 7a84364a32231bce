"""Run folders: made once, owned by one, never overwritten."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import pytest

from est_cli.common.errors import ConfigError, RunLockedError, StorageError
from est_cli.storage import run_dir, store
from est_cli.storage.run_dir import RunDir, create_run_dir, default_run_name, find_unfinished, lock, write_json


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def unfinished(outputs: Path, name: str, started_s: int = 0) -> RunDir:
    run = create_run_dir(outputs, name)
    run.config.write_text("seed: 0\n")
    os.utime(run.config, (started_s, started_s))
    return run


def finished(outputs: Path, name: str) -> RunDir:
    run = unfinished(outputs, name, started_s=10**9)
    write_json(run.summary, {"steps": 1})
    return run


def forked(work: Callable[[], object]) -> int:
    """The pid of a child that does `work`, tells so, and then waits to be killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        work()
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"x", "the child failed"
    os.close(reader)
    return pid


_owned: list[AbstractContextManager[None]] = []


def own(run: RunDir) -> None:
    """Take the lock until the process ends; a context manager that nobody refers to would be closed at once."""
    _owned.append(lock(run))
    _owned[-1].__enter__()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_paths_lie_where_the_documentation_says(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "new" / "outputs", "a")
    assert run.root == tmp_path / "new" / "outputs" / "a" and run.root.is_dir()
    paths = (run.config, run.metrics, run.summary, run.checkpoints, run.model, run.plots, run.wandb)
    assert [path.relative_to(run.root).as_posix() for path in paths] == [
        "config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "model", "plots", "wandb",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [finished, unfinished])
def test_an_existing_run_is_refused_and_left_as_it_is(tmp_path: Path, kind: Callable[[Path, str], RunDir]) -> None:
    kind(tmp_path, "a")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=r"^run_name: .*resume="):
        create_run_dir(tmp_path, "a")
    assert tree(tmp_path) == before


def test_foreign_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("thesis", "file", "link"):
        with pytest.raises(ConfigError, match="run_name: "):
            create_run_dir(tmp_path, name)
    with pytest.raises(StorageError, match="file"):
        create_run_dir(tmp_path / "file", "a")


def test_an_empty_folder_and_one_killed_before_its_start_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = create_run_dir(tmp_path, "empty")
    with lock(run):
        (run.root / ".tmp-config.yaml-1").touch()
    assert create_run_dir(tmp_path, "empty") == run


@pytest.mark.parametrize("name", ["a", "0", "t1=0.1,t2=0.4", "gpt2-three_stage-20260101-000000", "x" * 200])
def test_names_that_are_folder_names(tmp_path: Path, name: str) -> None:
    assert create_run_dir(tmp_path, name).root.parent == tmp_path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/a", "../a", ".a", "-a", "a b", "a\n", "é", "x" * 201])
def test_names_that_are_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run_name: "):
        create_run_dir(tmp_path, name)
    assert tree(tmp_path) == {}


def test_default_names() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5)
    assert default_run_name("gpt2_tiny", "three_stage", now) == "gpt2_tiny-three_stage-20260102-030405"
    for model in ("org/a model", "/", "../x", "é" * 300, "m" * 300):
        run_dir.check_run_name(default_run_name(model, "dense", now))


def test_spaces_and_unicode_on_the_way_to_the_run(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "my résumé runs", "a")
    with lock(run):
        write_json(run.summary, {"steps": 1})
    assert run.is_finished()


def test_two_owners(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path, "a")
    pid = forked(lambda: own(run))
    with pytest.raises(RunLockedError, match=f"in use by process {pid};") as caught, lock(run):
        pass
    assert caught.value.exit_code == 8
    kill(pid)
    assert (run.root / ".lock").exists()
    with lock(run):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()};"), lock(run):
            pass
        with pytest.raises(RunLockedError), lock(run):
            pass
    with lock(run):
        pass


def test_a_worker_that_outlives_its_killed_owner_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path, "a")

    def own_and_fork() -> None:
        own(run)
        (run.root / "worker").write_text(str(forked(lambda: None)))

    kill(forked(own_and_fork))
    worker = int((run.root / "worker").read_text())
    try:
        os.kill(worker, 0)
        with lock(run):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_worker_that_leaves_the_block_does_not_free_the_lock(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path, "a")
    held = lock(run)
    held.__enter__()
    kill(forked(lambda: held.__exit__(None, None, None)))
    with pytest.raises(RunLockedError), lock(run):
        pass
    held.__exit__(None, None, None)
    with lock(run):
        pass


def test_a_lock_file_with_anything_in_it(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path, "a")
    for text in (b"", b"99999999\n", b"\xff" * 100, b"x" * 100):
        (run.root / ".lock").write_bytes(text)
        with lock(run):
            assert (run.root / ".lock").read_bytes() == f"{os.getpid()}\n".encode()
    (run.root / ".lock").unlink()
    (run.root / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="lock"), lock(run):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_the_newest_unfinished_run_that_matches(tmp_path: Path) -> None:
    assert find_unfinished(tmp_path / "none", lambda root: True) is None
    finished(tmp_path, "finished")
    for name, started_s in (("z", 10), ("b", 30), ("y", 20)):
        unfinished(tmp_path, name, started_s)
    create_run_dir(tmp_path, "empty")
    (tmp_path / "link").symlink_to(tmp_path / "z")
    (tmp_path / "file").touch()
    asked: list[str] = []
    assert find_unfinished(tmp_path, lambda root: bool(asked.append(root.name))) is None
    assert asked == ["b", "y", "z"]
    assert find_unfinished(tmp_path, lambda root: root.name != "b") == tmp_path / "y"


def test_write_json_replaces_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"b": 1, "a": 0.1})
    write_json(path, {"b": 2, "a": None})
    assert json.loads(path.read_text()) == {"b": 2, "a": None}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text())["b"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(StorageError, match="ENOENT"):
        write_json(tmp_path / "gone" / "summary.json", {})
    store.clean_leftovers(tmp_path)
