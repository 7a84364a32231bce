"""Folders that are either complete and intact, or rebuilt.

A folder is built beside its place and renamed into it; `meta.json`, written last, holds the size and SHA-256 of every
other file and of itself. One process builds, others that want the same folder, on this host or another that shares the
file system, wait for it. A killed build leaves only a `.tmp-` folder, which the next build removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from est_cli.common.errors import EstError, StorageError, native_os_error
from est_cli.storage.digest import digest_file, fingerprint

log = logging.getLogger(__name__)

META = "meta.json"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
FORGOTTEN_S = 24 * 3600.0

Build = Callable[[Path], dict[str, Any]]
"""Fills an empty folder; returns what is to be remembered about it (plain values)."""


def cached(folder: Path, build: Build) -> dict[str, Any]:
    """What `build` returned for `folder`, building it first where it is missing or damaged. Raises StorageError."""
    if (remembered := intact(folder)) is not None:
        return remembered
    with locked(folder):
        if (remembered := intact(folder, warn=True)) is not None:
            return remembered
        clear_leftovers([folder])
        return publish(folder, build)


def intact(folder: Path, full: bool = True, warn: bool = False) -> dict[str, Any] | None:
    """What is remembered about `folder` if it is complete and, as far as `full` looks, as it was built; else None."""
    try:
        return verified(folder, full)
    except _Missing:
        return None
    except _Damaged as damage:
        if warn:
            log.warning("%s; building it again", damage)
        return None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process, on all hosts that share the file system, that builds `folder`. Raises StorageError."""
    with _storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f".{folder.name}.lock")):
        yield


def publish(folder: Path, build: Build) -> dict[str, Any]:
    """Build beside `folder` and rename into place. Raises StorageError.

    Nothing gets lost or mixed where several processes do this at once: the names beside are each process's own, the
    first to be ready wins, and what the others built is the same.
    """
    place = folder.with_name(f".tmp-{folder.name}+{socket.gethostname()}+{os.getpid()}")
    with _storage_errors(folder):
        shutil.rmtree(place, ignore_errors=True)
        try:
            place.mkdir(parents=True)
            remembered = build(place)
            _seal(place, folder.name, remembered)
            _into_place(place, folder)
            return remembered
        finally:
            shutil.rmtree(place, ignore_errors=True)


def clear_leftovers(folders: Sequence[Path]) -> None:
    """Remove what builds that were killed left behind of these folders; where that is not sure, after a day."""
    names = {folder.name for folder in folders}
    for parent in {folder.parent for folder in folders}:
        for place in parent.glob(".tmp-*+*+*"):
            name, host, pid = place.name.removeprefix(".tmp-").rsplit("+", 2)
            if name in names and _abandoned(place, host, pid):
                shutil.rmtree(place, ignore_errors=True)


def verified(folder: Path, full: bool = True) -> dict[str, Any]:
    """What is remembered about a complete and intact folder. Raises _Missing or _Damaged.

    Not `full`: the seal of meta.json and the sizes of the files are looked at, and not what the files hold.
    """
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
        if Path(name).name != name:
            raise _Damaged(f"{folder / META}: names a file that is not in its folder")
        _verify(folder / name, expected, full)
    return remembered


class _Missing(Exception):
    """There is no such folder."""


class _Damaged(Exception):
    """The folder is not what was built. The message names the file."""


def _verify(path: Path, expected: dict[str, Any], full: bool) -> None:
    if not path.is_file() or path.stat().st_size != expected["size"]:
        raise _Damaged(f"{path}: is missing or of another size than was written")
    if full and digest_file(path) != expected["sha256"]:
        raise _Damaged(f"{path}: its SHA-256 is not that of what was written")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file lock; the system lets go of it when the process ends, however it ends."""
    with _storage_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that builds the same cache in %s", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise StorageError(
                f"{path.parent}: its file system has no file locks ({error.strerror}), which keep processes from "
                "building the same cache at once; run in a folder on another one"
            ) from error
        yield


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror or error} (errno {error.errno})") from error
    except Exception as error:
        if isinstance(error, EstError) or native_os_error(error) is None:
            raise
        raise StorageError(f"{folder}: {error}") from error


def _into_place(place: Path, folder: Path) -> None:
    """Rename, unless an intact folder is there already; a damaged one gives way."""
    if folder.exists() and intact(folder, full=True) is None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        place.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or intact(folder, full=False) is None:
            raise
    _sync(folder.parent)


def _abandoned(place: Path, host: str, pid: str) -> bool:
    """Whether the process that built in this folder is gone, or has not written for a day."""
    if host == socket.gethostname() and not _alive(int(pid)):
        return True
    with contextlib.suppress(OSError):
        newest = max(path.stat().st_mtime for path in (place, *place.iterdir()))
        return time.time() - newest > FORGOTTEN_S
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    return True


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
