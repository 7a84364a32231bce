import os
from pathlib import Path

import pytest

from est_cli.storage import digest
from est_cli.storage.digest import digest_files, remembered_digests


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three files that count as settled."""
    monkeypatch.setattr(digest, "SETTLED_S", -1.0)
    found = [tmp_path / name for name in "abc"]
    for path in found:
        path.write_text(path.name)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    real = digest.digest_file
    monkeypatch.setattr(digest, "digest_file", lambda path: names.append(path.name) or real(path))
    return names


def test_what_is_unchanged_is_read_once_only(paths: list[Path], tmp_path: Path, read: list[str]) -> None:
    expected = remembered_digests(paths, tmp_path / "cache", verify=False)
    assert sorted(read) == ["a", "b", "c"]
    assert remembered_digests(paths, tmp_path / "cache", verify=False) == expected
    assert len(read) == 3
    assert remembered_digests(paths, tmp_path / "cache", verify=True) == expected == digest_files(paths)
    assert sorted(read[3:6]) == ["a", "b", "c"]


def test_new_content_of_the_same_size_and_time_is_read(paths: list[Path], tmp_path: Path, read: list[str]) -> None:
    before, stat = remembered_digests(paths, tmp_path / "cache", verify=False), paths[1].stat()
    while paths[1].stat().st_ctime_ns == stat.st_ctime_ns:  # the clock of file systems ticks slowly
        paths[1].write_text("x")
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = remembered_digests(paths, tmp_path / "cache", verify=False)
    assert read[3:] == ["b"] and after[1] != before[1] and after[0] == before[0]


def test_a_file_that_changed_just_now_is_not_remembered(
    paths: list[Path], tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "SETTLED_S", 100.0)
    for _ in range(2):
        remembered_digests(paths, tmp_path / "cache", verify=False)
    assert len(read) == 6


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": {}}', "[" * 100_000])
def test_a_damaged_memory_is_as_none(paths: list[Path], tmp_path: Path, content: str) -> None:
    expected = remembered_digests(paths, tmp_path / "cache", verify=False)
    (memo,) = (tmp_path / "cache").glob("digests-*.json")
    memo.write_text(content)
    assert remembered_digests(paths, tmp_path / "cache", verify=False) == expected


def test_a_cache_that_cannot_be_written_is_no_matter(paths: list[Path]) -> None:
    assert remembered_digests(paths, Path("/proc/no"), verify=False) == digest_files(paths)


def test_what_killed_writers_left_is_removed(paths: list[Path], tmp_path: Path) -> None:
    cache, gone = tmp_path / "cache", 2**22 + 1
    cache.mkdir()
    ours = [f".tmp-digests-{'a' * 16}.json-{gone}", f".tmp-digests-{'0' * 16}.json-{gone}"]
    others = [f".tmp-digests-{'a' * 16}.json-{os.getpid()}", f".tmp-digests-mine.json-{gone}", ".tmp-digests-x"]
    for name in (*ours, *others):
        (cache / name).touch()
    remembered_digests(paths, cache, verify=True)
    assert {path.name for path in cache.glob(".*")} == set(others)
