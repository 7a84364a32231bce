"""A writer killed, or refused by the disk, at every single change it makes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from est_cli.common.errors import StorageError
from est_cli.storage import disk, store
from tests.lab.folders import REFUSALS, fail_at, is_whole, killed_at, leftovers, names, save

pytestmark = pytest.mark.slow


def no_warning(message: str) -> None:
    raise AssertionError(message)


def newest_of(folder: Path, warn: Callable[[str], None]) -> Path | None:
    found = store.newest_valid(folder, warn)
    return None if found is None else found[0]


def save_and_retain(folder: Path, step: int) -> None:
    save(folder, step)
    store.retain(folder, keep_last=2, keep=lambda step: step == 10)


def with_three(folder: Path) -> Path:
    """Steps 10 (wanted for ever), 20 and 30, so that saving 40 has one to delete."""
    for step in (10, 20, 30):
        save(folder, step)
    return folder


def test_kill_at_every_point_of_save_and_retention_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    ends = []
    for k in range(1, 1000):
        folder = with_three(tmp_path / str(k))
        killed = killed_at(k, lambda folder=folder: save_and_retain(folder, 40))
        newest = newest_of(folder, no_warning)
        assert newest is not None and newest.name in ("step-000030", "step-000040") and is_whole(newest)
        assert is_whole(folder / "step-000010") and is_whole(folder / "step-000030")
        ends.append(newest.name)
        store.clean_leftovers(folder)
        assert not leftovers(names(folder))
        if not killed:
            break
        if newest.name == "step-000030":
            save(folder, 40)
        store.retain(folder, 2, lambda step: step == 10)
        assert names(folder) == {"step-000010", "step-000030", "step-000040"}
    assert len(ends) > 20
    assert ends == sorted(ends) and ends[0] == "step-000030", "once the new one is there it stays"


def test_kill_at_every_point_of_setting_aside(tmp_path: Path) -> None:
    for k in range(1, 100):
        folder = tmp_path / str(k)
        for step in (10, 20, 30, 40):
            save(folder, step)
        (folder / "step-000040" / "state.json").write_bytes(b"")
        killed = killed_at(k, lambda folder=folder: store.set_aside_later(folder, 20))
        newest = newest_of(folder, lambda _: None)
        assert newest is not None and newest.name in ("step-000020", "step-000030")
        if not killed:
            break
    assert k > 2
    assert names(folder) == {"step-000010", "step-000020", "aside-step-000030-0", "aside-step-000040-0"}


def test_kill_at_every_point_of_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    for k in range(1, 100):
        path.write_bytes(b"old")
        killed = killed_at(k, lambda: disk.replace_file(path, b"new"))
        assert path.read_bytes() in (b"old", b"new")
        store.clean_leftovers(tmp_path)
        assert names(tmp_path) == {"summary.json"}
        if not killed:
            break
    assert k > 3 and path.read_bytes() == b"new"


def test_a_disk_that_refuses_any_change_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = fail_at(monkeypatch, 0, errno.EIO)
    with_three(tmp_path / "count")
    passed.clear()
    save_and_retain(tmp_path / "count", 40)
    for k in range(1, len(passed) + 1):
        folder, code = tmp_path / str(k), REFUSALS[k % len(REFUSALS)]
        monkeypatch.undo()
        with_three(folder)
        fail_at(monkeypatch, k, code)
        with pytest.raises(
            StorageError, match=rf"(?s)^\S*{folder}.*\({errno.errorcode[code]}\)(; free some space .*)?$"
        ) as caught:
            save_and_retain(folder, 40)
        assert "\n" not in str(caught.value)
        assert not [name for name in names(folder) if name.startswith(".tmp-")]
        assert is_whole(folder / "step-000010") and is_whole(folder / "step-000030")
        newest = newest_of(folder, no_warning)
        assert newest is not None and is_whole(newest)


def test_order_on_disk_files_then_manifest_then_folder_then_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = fail_at(monkeypatch, 0, errno.EIO)
    save(tmp_path / "c", 7)
    order = [name.replace(f".tmp-step-000007-{passed[2].rpartition('-')[2]}", "TMP") for name in passed]
    assert order[:3] == ["mkdir c", f"fsync {tmp_path.name}/", "mkdir TMP"]
    synced = [order.index(f"fsync {name}") for name in ("config.json", "model.safetensors", "state.json")]
    assert max(synced) < order.index("write MANIFEST.json")
    assert order[-5:] == ["write MANIFEST.json", "fsync MANIFEST.json", "fsync TMP/", "rename TMP", "fsync c/"]


def test_an_exception_of_the_filler_leaves_nothing(tmp_path: Path) -> None:
    def fill(tmp: Path) -> None:
        (tmp / "sub").mkdir()
        (tmp / "sub" / "file").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_folder(tmp_path / "model", fill, {})
    assert names(tmp_path) == set()
