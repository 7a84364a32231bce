"""Folders that are either complete and intact, or rebuilt.

A folder is built beside its place and renamed into it; `meta.json`, written last, holds the size and SHA-256 of every
other file and of itself. One process builds, others that want the same folder wait for it. A killed build leaves only
a `.tmp-` folder, which the next build removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from est_cli.data.digest import digest_file, fingerprint
from est_cli.errors import StorageError

log = logging.getLogger(__name__)

META = "meta.json"

Build = Callable[[Path], dict[str, Any]]
"""Fills an empty folder; returns what is to be remembered about it (plain values)."""


def cached(folder: Path, build: Build) -> dict[str, Any]:
    """What `build` returned for `folder`, building it first where it is missing or damaged. Raises StorageError."""
    with contextlib.suppress(_Missing, _Damaged):
        return verified(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f".{folder.name}.lock")):
            return _built(folder, build)
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror or error} (errno {error.errno})") from error


def verified(folder: Path) -> dict[str, Any]:
    """What is remembered about a complete and intact folder. Raises _Missing or _Damaged."""
    if not (folder / META).is_file():
        raise _Missing(str(folder))
    try:
        meta = json.loads((folder / META).read_bytes())
        files, remembered = dict(meta["files"]), dict(meta["remembered"])
        seal = fingerprint(folder.name, files, remembered)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise _Damaged(f"{folder / META}: cannot be read") from error
    if meta.get("seal") != seal:
        raise _Damaged(f"{folder / META}: is not what was written")
    for name, expected in files.items():
        _verify(folder / name, expected)
    return remembered


class _Missing(Exception):
    """There is no such folder."""


class _Damaged(Exception):
    """The folder is not what was built. The message names the file."""


def _verify(path: Path, expected: dict[str, Any]) -> None:
    if not path.is_file() or path.stat().st_size != expected["size"]:
        raise _Damaged(f"{path}: is missing or of another size than was written")
    if digest_file(path) != expected["sha256"]:
        raise _Damaged(f"{path}: its SHA-256 is not that of what was written")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock; the system lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that builds the same cache in %s", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _built(folder: Path, build: Build) -> dict[str, Any]:
    """Build `folder` unless another process did so while this one waited; the lock is held."""
    try:
        return verified(folder)
    except _Missing:
        pass
    except _Damaged as damage:
        log.warning("%s; building it again", damage)
    place = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir()
        _seal(place, folder.name, build(place))
        if folder.exists():
            shutil.rmtree(folder)
        place.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return verified(folder)


def _seal(place: Path, name: str, remembered: dict[str, Any]) -> None:
    """Bring everything to the disk, and meta.json last."""
    files = {}
    for path in sorted(place.iterdir()):
        _sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": digest_file(path)}
    meta = {"files": files, "remembered": remembered, "seal": fingerprint(name, files, remembered)}
    (place / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    _sync(place / META)
    _sync(place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
