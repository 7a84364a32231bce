"""What the store writes, keeps, finds and deletes when nothing goes wrong, and whom it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from est_cli.common.errors import CheckpointError
from est_cli.storage import store
from tests.lab.folders import NAMES, contents, names, save


def test_a_saved_folder_verifies_and_says_what_is_in_it(tmp_path: Path) -> None:
    found = store.verify_folder(save(tmp_path, 3))
    assert found["format_version"] == 1
    assert found["meta"] == {"step": 3}
    assert {name: entry["bytes"] for name, entry in found["files"].items()} == {
        name: len(data) for name, data in contents(3).items()
    }


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_file_modes_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    def fill(tmp: Path) -> None:
        (tmp / "model.safetensors").touch(mode=0o600)

    before = os.umask(umask)
    try:
        store.write_folder(tmp_path / "model", fill, {})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == {"model.safetensors": mode, "MANIFEST.json": mode}


def test_nothing_is_written_over_an_existing_folder_even_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "step-000001").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        save(tmp_path, 1)
    assert names(tmp_path / "step-000001") == set()


@pytest.mark.parametrize("bad", ["link", "folder", "a b", ".hidden", "MANIFEST.json", "weights.bin", "hook.py"])
def test_only_plain_well_named_files_are_sealed(tmp_path: Path, bad: str) -> None:
    def fill(tmp: Path) -> None:
        if bad == "folder":
            (tmp / bad).mkdir()
        elif bad == "link":
            (tmp / bad).symlink_to("/etc/hostname")
        else:
            (tmp / bad).touch()

    with pytest.raises(CheckpointError, match=bad):
        store.write_folder(tmp_path / "model", fill, {})
    assert names(tmp_path) == set()


def test_newest_valid_skips_with_one_line_each_and_never_starts_fresh(tmp_path: Path) -> None:
    lines: list[str] = []
    assert store.newest_valid(tmp_path / "none", lines.append) is None
    assert store.newest_valid(tmp_path, lines.append) is None
    paths = [save(tmp_path, step) for step in (999_999, 1_000_000, 1_000_100)]
    assert store.newest_valid(tmp_path, lines.append) == (paths[2], store.verify_folder(paths[2]))
    assert lines == []
    (paths[2] / NAMES[0]).unlink()
    (paths[1] / NAMES[1]).write_bytes(b"")
    assert store.newest_valid(tmp_path, lines.append) == (paths[0], store.verify_folder(paths[0]))
    assert len(lines) == 2 and NAMES[0] in lines[0] and NAMES[1] in lines[1]
    (paths[0] / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="none of its 3 checkpoints"):
        store.newest_valid(tmp_path, lines.append)


def test_newest_valid_does_not_follow_a_link(tmp_path: Path) -> None:
    real = save(tmp_path / "elsewhere", 9)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "step-000009").symlink_to(real)
    lines: list[str] = []
    with pytest.raises(CheckpointError, match="none of its 1"):
        store.newest_valid(tmp_path / "own", lines.append)
    assert "a link" in lines[0]


@pytest.mark.parametrize(
    ("keep_last", "kept"), [(0, {30, 50, 60}), (1, {30, 50, 60}), (3, {30, 40, 50, 60}), (9, {10, 20, 30, 40, 50, 60})]
)
def test_retain_keeps_the_newest_and_the_wanted(tmp_path: Path, keep_last: int, kept: set[int]) -> None:
    for step in (10, 20, 30, 40, 50, 60):
        save(tmp_path, step)
    store.retain(tmp_path, keep_last, keep=lambda step: step == 30)
    assert names(tmp_path) == {f"step-{step:06d}" for step in kept}


def test_retain_touches_only_folders_of_ours(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside", 1)
    folder = tmp_path / "checkpoints"
    for step in (20, 30, 40):
        save(folder, step)
    (folder / "step-000001").symlink_to(outside)
    (folder / "step-000002").mkdir()
    (folder / "step-000003.bak").mkdir()
    (folder / "notes").mkdir()
    store.retain(folder, 2, keep=lambda step: False)
    assert names(folder) == {
        "step-000001", "step-000002", "step-000003.bak", "notes", "step-000030", "step-000040",
    }  # fmt: skip
    assert store.is_intact(outside)


def test_cleaning_removes_only_what_writers_leave_and_no_link_is_followed(tmp_path: Path) -> None:
    save(tmp_path, 5)
    for name in (".tmp-step-000006-1", ".trash-step-000001-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / ".tmp-summary.json-1").touch()
    (tmp_path / ".tmp-step-000007-2").symlink_to(tmp_path / "step-000005")
    theirs = {
        ".lock",
        ".tmp-draft",
        ".trash-precious",
        ".tmp-step-6-1",
        ".tmp-model",
        ".tmp-notes.txt-12",
        ".trash-step-1",
    }
    for name in theirs:
        (tmp_path / name).mkdir()
    store.clean_leftovers(tmp_path)
    assert names(tmp_path) == {"step-000005", *theirs}
    assert store.is_intact(tmp_path / "step-000005")
    store.clean_leftovers(tmp_path / "none")


def test_cleaning_goes_through_no_link_out_of_the_run(tmp_path: Path) -> None:
    run, elsewhere, disk = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "disk"
    for folder in (run / "real" / ".tmp-step-000006-1", elsewhere / ".trash-step-000001-0", disk / ".tmp-model-3"):
        folder.mkdir(parents=True)
    (run / "checkpoints").symlink_to(elsewhere)
    store.clean_leftovers(run / "checkpoints", within=run)
    assert names(elsewhere) == {".trash-step-000001-0"}
    (run / "inside").symlink_to("real")
    store.clean_leftovers(run / "inside", within=run)
    assert names(run / "real") == set()
    (tmp_path / "linked").symlink_to(disk)  # a whole run on another disk
    store.clean_leftovers(tmp_path / "linked")
    assert names(disk) == set()
    (disk / "checkpoints" / ".tmp-step-000006-1").mkdir(parents=True)
    store.clean_leftovers(tmp_path / "linked" / "checkpoints", within=tmp_path / "linked")
    assert names(disk / "checkpoints") == set()


def test_set_aside_never_overwrites(tmp_path: Path) -> None:
    assert store.set_aside(tmp_path / "model") is None
    for number in range(2):
        (tmp_path / "model").mkdir()
        assert store.set_aside(tmp_path / "model") == tmp_path / f"aside-model-{number}"


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    text = (save(tmp_path, 1) / "MANIFEST.json").read_text()
    assert set(json.loads(text)) == {"format_version", "files", "meta", "manifest_sha256"}
