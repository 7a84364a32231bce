"""Folders that are whole or not there, and how they are known again: by the size and SHA-256 of each file.

A folder is filled under a temporary name, every file is synced, the list of its files comes last, then one rename makes
it appear. Checkpoints (store.py) keep the list in MANIFEST.json, caches (cache.py) in a meta.json.

safetensors does not notice a flipped bit in tensor data, so every byte is covered: the files by their digests,
MANIFEST.json by being exactly what `render` writes for its content, with a digest of its own.
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
from typing import Any, BinaryIO, TypeVar

from est_cli.common.errors import CheckpointError, EstError, reason
from est_cli.storage import disk, strict_json
from est_cli.storage.digest import sha256

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
CARD, CARD_PICTURE = "README.md", "loss.png"
"""What is told of a model, for people: it stands beside the list, in which it is not, so that anybody may edit it."""
CODE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".py", ".so")
"""Files that run code when the usual readers open them; a folder of ours never holds one."""

Manifest = dict[str, Any]
"""What `parse` gives: format_version, files ({name: {"sha256", "bytes"}}), meta and its own digest."""

Files = dict[str, dict[str, Any]]
"""{name: {"sha256", "bytes"}} of the files of a folder."""

_T = TypeVar("_T")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_whole(
    target: Path,
    tmp: Path,
    fill: Callable[[Path], _T],
    seal: Callable[[Path, _T], None],
    place: Callable[[Path, Path], object],
) -> _T:
    """Fill the new folder `tmp`, `seal` it with what `fill` returned, `place` it as `target`; on any error, nothing.

    `seal` brings the files to the disk and then writes the list of them.
    """
    disk.fault_point(f"mkdir {tmp.name}")
    tmp.mkdir()
    try:
        disk.fault_point("fill")
        filled = fill(tmp)
        seal(tmp, filled)
        disk.sync_folder(tmp)
        place(tmp, target)
        disk.sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            disk.remove(tmp)
        raise
    return filled


def seal_files(
    folder: Path,
    check: Callable[[os.DirEntry[str]], None] = lambda entry: None,
    mode: int | None = None,
    sealed: Files | None = None,
) -> Files:
    """Bring all files of `folder`, each after a `check` and with its `mode` changed, to the disk.

    `sealed`: those that other processes have brought there. ValueError where one of them has not come here.
    """
    files = dict(sealed or {})
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        check(entry)
        if entry.name not in files:
            files[entry.name] = seal_file(Path(entry.path), mode)
    for name, entry_of in (sealed or {}).items():
        with blaming(folder / name), opened_folder(folder) as place, open_plain(place, name) as file:
            check_file(file, entry_of, full=False)
    return dict(sorted(files.items()))


def seal_file(path: Path, mode: int | None = None) -> dict[str, Any]:
    """Bring a file to the disk; returns its entry. OSError."""
    with os.fdopen(os.open(path, _READ | os.O_NOFOLLOW), "rb") as file:
        if mode is not None:
            disk.fault_point(f"chmod {path.name}")
            os.fchmod(file.fileno(), mode)
        digest = sha256(file)
        disk.fault_point(f"fsync {path.name}")
        os.fsync(file.fileno())
        return {"sha256": digest, "bytes": os.fstat(file.fileno()).st_size}


@contextmanager
def opened_folder(path: Path, links: bool = False) -> Iterator[int]:
    """A descriptor of the folder; OSError where there is none, or where it is a link and `links` are not followed."""
    folder = os.open(path, _READ | os.O_DIRECTORY | (0 if links else os.O_NOFOLLOW))
    try:
        yield folder
    finally:
        os.close(folder)


def open_plain(folder: int, name: str, links: bool = False) -> BinaryIO:
    """A file of an open folder. ValueError or OSError where there is none, or no plain one."""
    file = os.fdopen(os.open(name, _READ | (0 if links else os.O_NOFOLLOW), dir_fd=folder), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("not a plain file")
    return file


def check_file(file: BinaryIO, entry: dict[str, Any], full: bool = True) -> None:
    """ValueError unless the open file has the size that `entry` says, and where `full` every bit."""
    size = os.fstat(file.fileno()).st_size
    if size != entry["bytes"]:
        raise ValueError(f"damaged: {size} bytes instead of {entry['bytes']}")
    if full and sha256(file) != entry["sha256"]:
        raise ValueError("damaged: its SHA-256 is not the one it was saved with")


@contextmanager
def blaming(path: Path, kind: type[Exception] = CheckpointError) -> Iterator[None]:
    """Turn an OSError or a ValueError into one of `kind` that names the file."""
    try:
        yield
    except EstError:
        raise
    except OSError as err:
        link = err.errno in (errno.ELOOP, errno.ENOTDIR) and path.is_symlink()
        raise kind(f"{path}: {'a link; name the real thing' if link else reason(err)}") from err
    except ValueError as err:
        raise kind(f"{path}: {err}") from err


def render(files: Files, meta: dict[str, Any]) -> bytes:
    """The manifest of `files` as it stands on disk."""
    body = {"format_version": FORMAT_VERSION, "files": files, "meta": meta}
    digest = hashlib.sha256(strict_json.write_object(body)).hexdigest()
    return strict_json.write_object({**body, "manifest_sha256": digest})


def parse(data: bytes) -> Manifest:
    """The manifest in `data`, its own form checked. ValueError says in one line what is wrong."""
    found = strict_json.read_object(data)
    version = found.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"format version {repr(version)[:40]}; this version of the tool reads {FORMAT_VERSION}")
    files, meta = found.get("files"), found.get("meta")
    if not isinstance(files, dict) or not isinstance(meta, dict):
        raise ValueError("needs the objects `files` and `meta`")
    for name, entry in files.items():
        _check_entry(name, entry)
    if render(files, meta) != data:
        raise ValueError("damaged: its own checksum does not match")
    return found


def check_name(name: str) -> None:
    """ValueError unless `name` is a plain file name that may stand in a folder of ours."""
    if not _NAME.fullmatch(name) or name in (MANIFEST, CARD, CARD_PICTURE):
        raise ValueError(f"{name!r} is no file name for a checkpoint (letters, digits, `_`, `-`, `.`; no folders)")
    if name.endswith(CODE_SUFFIXES):
        raise ValueError(f"{name!r} could carry code; weights are read from safetensors only: convert it")


def _check_entry(name: str, entry: object) -> None:
    check_name(name)
    if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
        raise ValueError(f"{name}: needs exactly `sha256` and `bytes`")
    digest, size = entry["sha256"], entry["bytes"]
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"{name}: `sha256` is not 64 hexadecimal digits")
    if type(size) is not int or size < 0:
        raise ValueError(f"{name}: `bytes` is not a size")
