"""The few ways in which the disk is changed: synced, named when they fail, and open to planted faults.

Standard library only.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from est_cli.common.errors import StorageError, reason


def fault_point(name: str) -> None:
    """Called before each change of the disk. Does nothing; tests replace it to crash or fail at exactly this point."""


def write_file(path: Path, data: bytes) -> None:
    """A new file with `data`, synced, its mode as the umask says. OSError if it exists."""
    fault_point(f"write {path.name}")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        fault_point(f"fsync {path.name}")
        os.fsync(fd)


def replace_file(path: Path, data: bytes) -> None:
    """`path` has its old content or `data`, never half of it. StorageError if the disk refuses."""
    tmp = path.parent / f".tmp-{path.name}-{os.getpid()}"
    with storage_errors(path):
        try:
            write_file(tmp, data)
            fault_point(f"replace {path.name}")
            os.replace(tmp, path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                tmp.unlink(missing_ok=True)
            raise


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file (`path` if the error has none) and the reason."""
    try:
        yield
    except OSError as err:
        code = errno.errorcode.get(err.errno or 0, type(err).__name__)
        raise StorageError(f"{err.filename or path}: {reason(err)} ({code})") from err


def make_folder(folder: Path) -> None:
    """Make `folder`, unless it is there, so that it outlives a power cut. Its parent must exist."""
    if not folder.is_dir():
        fault_point(f"mkdir {folder.name}")
        folder.mkdir()
        sync_folder(folder.parent)


def rename(source: Path, target: Path) -> Path:
    """Rename and return the new path. The caller syncs the parent."""
    fault_point(f"rename {source.name}")
    return source.rename(target)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` outlive a power cut."""
    fault_point(f"fsync {folder.name}/")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unused(path: Path) -> Path:
    """The first of PATH-0, PATH-1, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}-{number}") for number in itertools.count())
    return next(candidate for candidate in candidates if not os.path.lexists(candidate))


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with all in it."""
    if path.is_symlink() or not path.is_dir():
        fault_point(f"unlink {path.name}")
        path.unlink()
        return
    for name in sorted(os.listdir(path)):
        remove(path / name)
    fault_point(f"rmdir {path.name}")
    path.rmdir()
