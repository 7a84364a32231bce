"""Damaged and hostile folders: all refused, with the file's name, in one line."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import CheckpointError
from est_cli.storage import manifest, store
from tests.lab.folders import NAMES, save

ALL = (*NAMES, "MANIFEST.json")


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        store.verify_folder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (path.name, *words)), message


def entry(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


@pytest.mark.parametrize("name", ALL)
def test_truncated_anywhere(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    data = (path / name).read_bytes()
    for size in range(0, len(data), max(1, len(data) // 20)):
        (path / name).write_bytes(data[:size])
        refused(path, name)
    for wrong in (data + b"\n", b"\0" * len(data)):
        (path / name).write_bytes(wrong)
        refused(path, name)
    (path / name).write_bytes(data)
    store.verify_folder(path)


@pytest.mark.parametrize("name", ALL)
def test_missing(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    (path / name).unlink()
    refused(path, name)


@pytest.mark.parametrize("name", ALL)
def test_swapped_with_another_step(tmp_path: Path, name: str) -> None:
    path, other = save(tmp_path, 1), save(tmp_path, 2)
    shutil.copy(other / name, path / name)
    refused(path, name if name in NAMES else NAMES[0])


def test_random_bit_flips_are_all_found_in_the_right_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    whole = {name: (path / name).read_bytes() for name in ALL}
    rng = random.Random(0)
    for _ in range(300):
        name = rng.choice(ALL)
        data = bytearray(whole[name])
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (path / name).write_bytes(data)
        refused(path, name)
        (path / name).write_bytes(whole[name])
    store.verify_folder(path)


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    data = (save(tmp_path, 1) / "MANIFEST.json").read_bytes()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises(ValueError, match=r"\S"):
            manifest.parse(bytes(flipped))


def test_a_link_in_place_of_a_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / NAMES[0]).rename(tmp_path / "real")
    (path / NAMES[0]).symlink_to(tmp_path / "real")
    refused(path, NAMES[0], "a link")


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    for name in (NAMES[0], "MANIFEST.json"):
        path = save(tmp_path / name, 1)
        (path / name).unlink()
        os.mkfifo(path / name)
        refused(path, name)


def test_a_file_that_nobody_declared(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for extra in ("extra.json", ".hidden", "line\nbreak"):
        (path / extra).touch()
        refused(path, "does not belong", repr(extra))
        (path / extra).unlink()


def test_a_link_to_a_folder_and_a_plain_file_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(save(tmp_path, 1))
    refused(tmp_path / "link", "a link")
    (tmp_path / "file").touch()
    refused(tmp_path / "file")
    refused(tmp_path / "nothing", "No such file")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\nb", "MANIFEST.json", "pytorch_model.bin"]
)
def test_names_that_lead_elsewhere_or_carry_code(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    (tmp_path / "evil").write_bytes(b"x")
    (path / "MANIFEST.json").write_bytes(manifest.render({name: entry(b"x")}, {}))
    refused(path, "MANIFEST.json", repr(name))


HOSTILE = {
    "duplicate key": (b'{"files": {}, "files": {}}', "twice"),
    "NaN": (b'{"format_version": NaN}', "NaN"),
    "infinity by size": (b'{"format_version": 1e999}', "1e999"),
    "deep": (b"[" * 100_000, "deep"),
    "deep enough for a writer": (b'{"format_version": 1, "files": {}, "meta": {"a":' + b"[" * 900, "MANIFEST"),
    "not an object": (b"[]", "object"),
    "not text": (b"\xff\xfe", "UTF-8"),
    "large": (b" " * (1 << 20) + b"{}", "larger"),
    "long number": (b'{"format_version": ' + b"9" * 5000 + b"}", "MANIFEST"),
    "next version": (b'{"format_version": 2, "unknown": []}', "version 2"),
    "no version": (b"{}", "version None"),
    "version true": (b'{"format_version": true, "files": {}, "meta": {}}', "version True"),
    "files a list": (b'{"format_version": 1, "files": [], "meta": {}}', "files"),
    "no digest": (manifest.render({"a": {"bytes": 1}}, {}), "sha256"),
    "bytes true": (manifest.render({"a": {"bytes": True, "sha256": "0" * 64}}, {}), "bytes"),
    "digest too short": (manifest.render({"a": {"bytes": 1, "sha256": "0" * 63}}, {}), "sha256"),
    "edited by hand": (manifest.render({}, {"a": 1}).replace(b'"a": 1', b'"a": 2'), "checksum"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_manifests_from_someone_else(tmp_path: Path, case: str) -> None:
    data, word = HOSTILE[case]
    path = save(tmp_path, 1)
    (path / "MANIFEST.json").write_bytes(data)
    refused(path, "MANIFEST.json", word)


def test_a_huge_sparse_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    os.truncate(path / NAMES[1], 1 << 31)
    refused(path, NAMES[1], str(1 << 31))
