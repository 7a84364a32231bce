"""The few ways in which the disk is changed: synced, locked, named when they fail, and open to planted faults.

Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from est_cli.common.errors import EstError, StorageError, native_os_error, reason, way_out


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


def replace_file(path: Path, data: bytes, text: str = "{reason} ({code})", beside: Path | None = None) -> None:
    """`path` has its old content or `data`, never half of it. StorageError if the disk refuses (see storage_errors).

    What is written first, and stays where the process is killed, lies in the folder `beside`, or in that of `path`.
    """
    tmp = (beside or path.parent) / f".tmp-{path.name}-{os.getpid()}"
    with storage_errors(path, text):
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
def storage_errors(path: Path, text: str = "{reason} ({code})") -> Iterator[None]:
    """Turn an OSError into a StorageError that names the file (`path` if the error has none) and says `text` of it.

    safetensors and tokenizers tell of a full disk in exceptions of their own, which are turned as well.
    """
    try:
        yield
    except EstError:
        raise
    except Exception as err:
        found = err if isinstance(err, OSError) else native_os_error(err)
        if found is None:
            raise
        code = errno.errorcode.get(found.errno or 0, type(found).__name__)
        said = text.format(reason=reason(found), code=code, errno=found.errno)
        raise StorageError(f"{found.filename or path}: {said}{way_out(found)}") from err


@contextmanager
def locked(path: Path, busy: Callable[[int], None], refused: Callable[[str], str]) -> Iterator[int]:
    """Hold the lock file `path`, whose descriptor this yields, until the end of the block or of this process.

    A file that nobody holds any more does not count. Where another process holds it, `busy(descriptor)` raises or, to
    wait for it, returns; `refused(reason)` is what is said of a file system without locks. Raises StorageError.
    """
    with storage_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    _locks.add(fd)
    try:
        _lock(fd, busy, refused)
        yield fd
    finally:
        if fd in _locks:
            _locks.remove(fd)
            os.close(fd)


def _lock(fd: int, busy: Callable[[int], None], refused: Callable[[str], str]) -> None:
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy(fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as err:
        raise StorageError(refused(reason(err))) from err


_locks: set[int] = set()


def _close_in_child() -> None:
    # A forked worker shares the lock: one that outlives its killed parent would keep the folder locked.
    for fd in _locks:
        os.close(fd)
    _locks.clear()


os.register_at_fork(after_in_child=_close_in_child)


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


def move_into(folder: Path, path: Path) -> None:
    """Move `path` into `folder`, made if missing, in the place of what has its name there. StorageError."""
    with storage_errors(path):
        make_folder(folder)
        target = folder / path.name
        if os.path.lexists(target):
            remove(target)
        rename(path, target)
        sync_folder(folder)
        sync_folder(path.parent)


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


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine; one that has ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # no such files on this system, or gone by now
        return True
    return state != "Z"
