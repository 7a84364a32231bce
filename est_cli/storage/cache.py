"""What takes long to make, kept in folders that are whole and intact, or made again.

A folder is built beside its place and renamed into it (manifest.py); `meta.json`, written last, holds the size and
SHA-256 of every other file and of itself. One process builds, others that want the same folder, on this host or another
that shares the file system, wait for it. A killed build leaves only a `.tmp-` folder, which the next build removes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from est_cli.common.errors import StorageError, reason
from est_cli.storage import disk
from est_cli.storage.digest import fingerprint
from est_cli.storage.manifest import blaming, check_file, open_plain, opened_folder, seal_files, write_whole

log = logging.getLogger(__name__)

DATA = Path("data")
"""The folder of all caches, unless paths.data is another."""
DATA_VARIABLE = "EST_DATA_CACHE"
"""Names another folder, where paths.data does not."""
META = "meta.json"
FORGOTTEN_S = 24 * 3600.0
_REFUSED = "{reason} (errno {errno})"

Build = Callable[[Path], dict[str, Any]]
"""Fills an empty folder; returns what is to be remembered about it (plain values)."""


def cached(folder: Path, build: Build, what: str) -> dict[str, Any]:
    """What `build` returned for `folder`, building it first where it is missing or damaged.

    Nothing is written where it is there. Raises StorageError; `what` says what is kept there, `an intact ...`.
    """
    if (remembered := intact(folder)) is not None:
        return remembered
    with locked(folder, what):
        if (remembered := intact(folder, warn=True)) is not None:
            return remembered
        clear_leftovers([folder])
        return publish(folder, build)


def intact(folder: Path, full: bool = True, warn: bool = False) -> dict[str, Any] | None:
    """What is remembered about `folder` if it is complete and, as far as `full` looks, as it was built; else None."""
    try:
        return verified(folder, full)
    except Damaged as damage:
        if warn:
            log.warning("%s; building it again", damage)
        return None


class Busy(Exception):
    """Another process builds it."""


@contextlib.contextmanager
def locked(folder: Path, what: str, waits: bool = True) -> Iterator[None]:
    """Be the only process, on all hosts that share the file system, that builds `folder`.

    Raises StorageError, which where nothing can be written tells that `what` is missing; Busy where another process is
    at it and this one does not wait (`waits`).
    """

    def wait(_: int) -> None:
        if not waits:
            raise Busy
        log.info("waiting for another process that builds the same cache in %s", folder.parent)

    def refused(why: str) -> str:
        return (
            f"{folder.parent}: its file system has no file locks ({why}), which keep processes from building the same "
            "cache at once; run in a folder on another one"
        )

    with contextlib.ExitStack() as lock:
        with _missing_where_read_only(folder.parent, what), disk.storage_errors(folder, _REFUSED):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock.enter_context(disk.locked(folder.with_name(f".{folder.name}.lock"), wait, refused))
        yield


@contextlib.contextmanager
def _missing_where_read_only(root: Path, what: str) -> Iterator[None]:
    """A shared folder of caches may be another user's: then it is of use as far as everything is in it."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise StorageError(
            f"{root}: lacks {what}, and cannot be written ({reason(cause)}); paths.data=FOLDER or {DATA_VARIABLE} "
            "names a place where it can be made"
        ) from error


def publish(folder: Path, build: Build) -> dict[str, Any]:
    """Build beside `folder`, whose parent exists, and rename into place. Raises StorageError.

    Nothing gets lost or mixed where several processes do this at once: the names beside are each process's own, the
    first to be ready wins, and what the others built is the same.
    """
    place = folder.with_name(f".tmp-{folder.name}+{socket.gethostname()}+{os.getpid()}")

    def seal(place: Path, remembered: dict[str, Any]) -> None:
        files = {name: {"size": found["bytes"], "sha256": found["sha256"]} for name, found in seal_files(place).items()}
        meta = {"files": files, "remembered": remembered, "seal": fingerprint(folder.name, files, remembered)}
        disk.write_file(place / META, json.dumps(meta, indent=1).encode())

    with disk.storage_errors(folder, _REFUSED):
        shutil.rmtree(place, ignore_errors=True)
        return write_whole(folder, place, build, seal, _into_place)


def clear_leftovers(folders: Sequence[Path]) -> None:
    """Remove what builds that were killed left behind of these folders; where that is not sure, after a day."""
    names = {folder.name for folder in folders}
    for parent in {folder.parent for folder in folders}:
        for place in parent.glob(".tmp-*+*+*"):
            name, host, pid = place.name.removeprefix(".tmp-").rsplit("+", 2)
            if name in names and _abandoned(place, host, pid):
                shutil.rmtree(place, ignore_errors=True)


class Damaged(Exception):
    """The folder is not what was built. The message names the file."""


def verified(folder: Path, full: bool = True) -> dict[str, Any] | None:
    """What is remembered about a complete and intact folder, None where there is none. Raises Damaged.

    Not `full`: the seal of meta.json and the sizes of the files are looked at, and not what the files hold.
    """
    if not (folder / META).is_file():
        return None
    try:
        meta = json.loads((folder / META).read_bytes())
        files, remembered = dict(meta["files"]), dict(meta["remembered"])
        seal = fingerprint(folder.name, files, remembered)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise Damaged(f"{folder / META}: cannot be read") from error
    if meta.get("seal") != seal:
        raise Damaged(f"{folder / META}: is not what was written")
    with blaming(folder, Damaged), opened_folder(folder, links=True) as opened:
        for name, found in files.items():
            if Path(name).name != name:
                raise Damaged(f"{folder / META}: names a file that is not in its folder")
            with blaming(folder / name, Damaged), open_plain(opened, name, links=True) as file:
                check_file(file, {"bytes": found["size"], "sha256": found["sha256"]}, full)
    return remembered


def _into_place(place: Path, folder: Path) -> None:
    """Rename, unless an intact folder is there already; a damaged one gives way."""
    if folder.exists() and intact(folder, full=True) is None:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        disk.rename(place, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or intact(folder, full=False) is None:
            raise
        disk.remove(place)


def _abandoned(place: Path, host: str, pid: str) -> bool:
    """Whether the process that built in this folder is gone, or has not written for a day."""
    if host == socket.gethostname() and not disk.is_alive(int(pid)):
        return True
    with contextlib.suppress(OSError):
        newest = max(path.stat().st_mtime for path in (place, *place.iterdir()))
        return time.time() - newest > FORGOTTEN_S
    return False
