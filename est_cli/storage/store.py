"""Folders that are whole or not there: the one writer, the one verifier, and what is kept of a series of checkpoints.

A folder is filled under a temporary name, every file is synced, MANIFEST.json comes last, then one rename makes it
appear. Whoever writes, deletes or cleans here holds the run's lock (see run_dir.py), so there is one writer at a time.
Standard library only: what a crash can leave behind is tested without torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from est_cli.common.errors import CheckpointError, reason
from est_cli.storage import disk, manifest, strict_json
from est_cli.storage.manifest import MANIFEST, Manifest

_STEP = re.compile(r"step-([0-9]{6,})")
_PIECE = 1 << 23
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_folder(target: Path, fill: Callable[[Path], None], meta: dict[str, Any]) -> None:
    """Make `target` with the files that `fill(folder)` writes and a manifest with `meta`; on any exception, nothing.

    CheckpointError: target exists, or `fill` left something that is not a plain file. StorageError: the disk refused.
    """
    _refuse_existing(target)
    tmp = target.parent / f".tmp-{target.name}-{os.getpid()}"
    with disk.storage_errors(target):
        disk.make_folder(target.parent)
        disk.fault_point(f"mkdir {tmp.name}")
        tmp.mkdir()
        try:
            disk.fault_point("fill")
            fill(tmp)
            _seal(tmp, meta)
            _refuse_existing(target)
            disk.rename(tmp, target)
            disk.sync_folder(target.parent)
        except BaseException:
            with suppress(OSError):
                disk.remove(tmp)
            raise


def _seal(folder: Path, meta: dict[str, Any]) -> None:
    # mkdir applied the umask, so the folder's own mode says which file mode the user wants (safetensors makes 0600).
    mode = folder.stat().st_mode & 0o666
    files = {entry.name: _seal_file(entry, mode) for entry in sorted(os.scandir(folder), key=lambda e: e.name)}
    disk.write_file(folder / MANIFEST, manifest.render(files, meta))
    disk.sync_folder(folder)


def _seal_file(entry: os.DirEntry[str], mode: int) -> dict[str, Any]:
    if not entry.is_file(follow_symlinks=False):
        raise CheckpointError(f"{entry.path}: a checkpoint holds plain files only")
    with _blaming(Path(entry.path)):
        manifest.check_name(entry.name)
    with os.fdopen(os.open(entry.path, _READ), "rb") as file:
        disk.fault_point(f"chmod {entry.name}")
        os.fchmod(file.fileno(), mode)
        digest = _sha256(file)
        disk.fault_point(f"fsync {entry.name}")
        os.fsync(file.fileno())
        return {"sha256": digest, "bytes": os.fstat(file.fileno()).st_size}


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    # hashlib.file_digest reads small pieces: beside a busy thread it waits for the interpreter's lock at each of them.
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise CheckpointError(f"{target}: exists already and is never overwritten")


def verify_folder(path: Path) -> Manifest:
    """The manifest of `path`, after every file in it was found to be there, plain, and the same to the last bit.

    CheckpointError names the file and what is wrong. Links are refused, also `path` itself: resolve it first.
    """
    with _blaming(path):
        folder = os.open(path, _READ | os.O_DIRECTORY)
    try:
        with _blaming(path / MANIFEST):
            found = manifest.parse(_read(folder, MANIFEST, limit=strict_json.MAX_BYTES))
        with _blaming(path):
            _check_listing(set(os.listdir(folder)), {*found["files"], MANIFEST})
        for name, entry in found["files"].items():
            with _blaming(path / name):
                _check_file(folder, name, entry)
    finally:
        os.close(folder)
    return found


def is_intact(path: Path) -> bool:
    """Whether `path` is a folder that verifies."""
    try:
        verify_folder(path)
    except CheckpointError:
        return False
    return True


def _check_listing(present: set[str], expected: set[str]) -> None:
    for name in sorted(expected - present):
        raise ValueError(f"{name} is missing")
    for name in sorted(present - expected):
        raise ValueError(f"{name!r} is not in {MANIFEST}, so it does not belong there")


def _check_file(folder: int, name: str, entry: dict[str, Any]) -> None:
    with _open_plain(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry["bytes"]:
            raise ValueError(f"damaged: {size} bytes instead of {entry['bytes']}")
        if _sha256(file) != entry["sha256"]:
            raise ValueError("damaged: its SHA-256 is not the one it was saved with")


def _read(folder: int, name: str, limit: int) -> bytes:
    with _open_plain(folder, name) as file:
        return file.read(limit + 1)


def _open_plain(folder: int, name: str) -> Any:
    file = os.fdopen(os.open(name, _READ, dir_fd=folder), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("not a plain file")
    return file


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        link = err.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink()
        raise CheckpointError(f"{path}: {'a link; name the real thing' if link else reason(err)}") from err
    except ValueError as err:
        raise CheckpointError(f"{path}: {err}") from err


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of everything named step-NNNNNN in `folder`, oldest first; [] if there is no such folder."""
    with disk.storage_errors(folder):
        names = os.listdir(folder) if folder.exists() else []
    matches = [match for name in names if (match := _STEP.fullmatch(name))]
    return sorted((int(match[1]), folder / match[0]) for match in matches)


def newest_valid(folder: Path, warn: Callable[[str], None]) -> tuple[Path, Manifest] | None:
    """The newest checkpoint that verifies, with its manifest; None if there are none. One warning for each newer one.

    CheckpointError if there are some and none verifies: a run must not start anew over the remains of another.
    """
    found = step_folders(folder)
    for _, path in reversed(found):
        try:
            return path, verify_folder(path)
        except CheckpointError as err:
            warn(f"{err}; this checkpoint is skipped")
    if found:
        raise CheckpointError(f"{folder}: none of its {len(found)} checkpoints is intact; start a new run_name instead")
    return None


def retain(folder: Path, keep_last: int, keep: Callable[[int], bool]) -> None:
    """Delete checkpoints, except the `keep_last` newest (at least 2) and those whose step `keep` wants.

    Call it after a successful save only. Folders without a manifest and links are neither counted nor touched.
    """
    ours = [(step, path) for step, path in step_folders(folder) if not path.is_symlink() and (path / MANIFEST).exists()]
    doomed = [path for step, path in ours[: -max(keep_last, 2)] if not keep(step)]
    with disk.storage_errors(folder):
        trash = [disk.rename(path, disk.unused(folder / f".trash-{path.name}")) for path in doomed]
        if trash:
            disk.sync_folder(folder)
        for path in trash:
            disk.remove(path)


def set_aside(path: Path) -> Path | None:
    """Rename `path` to an unused aside-NAME-N beside it, which nothing reads or deletes; None if it is not there."""
    if not os.path.lexists(path):
        return None
    with disk.storage_errors(path):
        moved = disk.rename(path, disk.unused(path.parent / f"aside-{path.name}"))
        disk.sync_folder(path.parent)
    return moved


def set_aside_later(folder: Path, step: int) -> None:
    """Set aside the checkpoints of steps after `step`, which a run that continues from `step` has gone back behind.

    They are damaged, or left by going back by hand. Counted as the newest, they would make `retain` delete intact ones.
    """
    for found, path in reversed(step_folders(folder)):
        if found > step:
            set_aside(path)


def clean_leftovers(folder: Path) -> None:
    """Remove the .tmp-* and .trash-* of killed writers. Call it at start, holding the lock: no writer lives then."""
    if not folder.is_dir():
        return
    with disk.storage_errors(folder):
        for name in os.listdir(folder):
            if name.startswith((".tmp-", ".trash-")):
                disk.remove(folder / name)
