import os
import socket
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import StorageError
from est_cli.storage import cache
from est_cli.storage.cache import cached
from tests.lab.corpora import in_child, kill_at, status

WHAT = "an intact thing"


def build(place: Path) -> dict[str, Any]:
    (place / "a.bin").write_bytes(bytes(range(200)))
    (place / "b.bin").write_bytes(b"b" * 50)
    return {"tokens": 250}


def never(place: Path) -> dict[str, Any]:
    raise AssertionError("built though it was there")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_second_time_nothing_is_built(tmp_path: Path) -> None:
    assert cached(tmp_path / "new" / "key", build, WHAT) == {"tokens": 250}
    assert cached(tmp_path / "new" / "key", never, WHAT) == {"tokens": 250}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    cached(folder, build, WHAT)
    good = content(folder)
    harmless = 0
    for name, data in good.items():
        for at in range(0, len(data), 3):
            flip(folder / name, at)
            harmless += _accepted(folder)
            (folder / name).write_bytes(data[:at])
            assert not _accepted(folder), (name, at)
            (folder / name).write_bytes(data)
    assert harmless == 0
    assert _accepted(folder)


def _accepted(folder: Path) -> bool:
    return cache.intact(folder) is not None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "meta", "empty meta", "renamed"])
def test_damaged_folder_is_built_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = tmp_path / "key"
    cached(folder, build, WHAT)
    good = content(folder)
    if damage == "renamed":
        folder = folder.rename(tmp_path / "other")
    else:
        DAMAGES[damage](folder)
    assert cached(folder, build, WHAT) == {"tokens": 250}
    assert "building it again" in caplog.text
    assert content(folder).keys() == good.keys()
    assert content(folder)["a.bin"] == good["a.bin"]


DAMAGES = {
    "flip": lambda folder: flip(folder / "a.bin", 100),
    "cut": lambda folder: (folder / "a.bin").write_bytes(b"1"),
    "remove": lambda folder: (folder / "b.bin").unlink(),
    "meta": lambda folder: (folder / "meta.json").write_text('{"files": {}, "remembered": {}, "seal": ""}'),
    "empty meta": lambda folder: (folder / "meta.json").write_text(""),
}


@pytest.mark.parametrize("name", ["fsync", "rename", "mkdir"])
def test_killed_at_any_call_it_is_never_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "key"
    killed = 0
    for call in range(1, 20):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, kill_at(call, getattr(os, name)))
            code = status(in_child(lambda: cached(folder, build, WHAT)))
        if code == 0:
            break
        killed += 1
        assert code == -9
        if folder.exists():
            assert cached(folder, never, WHAT) == {"tokens": 250}
        assert cached(folder, build, WHAT) == {"tokens": 250}
        assert content(folder)["a.bin"] == bytes(range(200))
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert killed == {"fsync": 5, "rename": 1, "mkdir": 2}[name]


def test_a_builder_that_was_killed_and_not_waited_for_is_gone(tmp_path: Path) -> None:
    """As in a container whose first process waits for no one: its number is taken, but nobody builds."""
    child = in_child(lambda: None)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    left = tmp_path / f".tmp-key+{socket.gethostname()}+{child}"
    left.mkdir()
    cache.clear_leftovers([tmp_path / "key"])
    assert not left.exists()
    assert status(child) == 0


def test_who_is_later_keeps_what_is_there(tmp_path: Path) -> None:
    """Two processes build the same without a lock; the other one is ready first."""

    def overtaken(place: Path) -> dict[str, Any]:
        assert status(in_child(lambda: cache.publish(tmp_path / "key", build))) == 0
        return build(place)

    assert cache.publish(tmp_path / "key", overtaken) == {"tokens": 250}
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert cached(tmp_path / "key", never, WHAT) == {"tokens": 250}


def test_who_is_later_replaces_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "a.bin").write_bytes(b"half")
    assert cache.publish(tmp_path / "key", build) == {"tokens": 250}
    assert cached(tmp_path / "key", never, WHAT) == {"tokens": 250}


def test_error_while_building_leaves_nothing(tmp_path: Path) -> None:
    def broken(place: Path) -> dict[str, Any]:
        (place / "a.bin").write_bytes(b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "key", broken, WHAT)
    assert [path.name for path in tmp_path.iterdir()] == [".key.lock"]


def test_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    def full(place: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device", str(place / "tokens.bin"))

    with pytest.raises(StorageError, match=r"tokens.bin: No space left on device \(errno 28\)"):
        cached(tmp_path / "key", full, WHAT)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file: "):
        cached(tmp_path / "file" / "key", build, WHAT)
