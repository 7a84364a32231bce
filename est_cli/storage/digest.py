"""SHA-256 of what a cache depends on: contents, never names or times."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from est_cli.common.errors import DataError, StorageError
from est_cli.storage import disk

SETTLED_S = 3.0
"""A file that changed this recently may change again without a new time stamp: its digest is not remembered."""
_PIECE = 1 << 23
_LEFTOVER = re.compile(r"\.tmp-digests-[0-9a-f]{16}\.json-([0-9]{1,7})")


def fingerprint(*parts: object) -> str:
    """One digest, in hex, over plain values (whatever JSON can say)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sha256(file: BinaryIO) -> str:
    """The digest of the rest of an open file, in hex."""
    digest = hashlib.sha256()
    # hashlib.file_digest reads small pieces: beside a busy thread it waits for the interpreter's lock at each of them.
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's bytes, in hex. Raises DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return sha256(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def digest_files(paths: Sequence[Path]) -> list[str]:
    """The digest of each file's bytes; several files at once, since hashing holds no lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest_file, paths))


def remembered_digests(paths: Sequence[Path], cache_root: Path, verify: bool) -> list[str]:
    """As `digest_files`, and remembered in `cache_root` for the other processes of the machine.

    Without `verify` a file whose size, inode and times (that of its last change, which nobody can set, among them) are
    as remembered is not read.
    """
    memo = cache_root / f"digests-{fingerprint([str(path.absolute()) for path in paths])[:16]}.json"
    stats = [stat_of(path) for path in paths]
    known = {} if verify else _known(memo)
    missing = [path for path, stat in zip(paths, stats, strict=True) if stat not in known]
    known |= zip([stat_of(path) for path in missing], digest_files(missing), strict=True)
    digests = [known[stat] if stat in known else digest_file(path) for path, stat in zip(paths, stats, strict=True)]
    if missing and all(_settled(path) for path in missing):
        _clear_leftovers(cache_root)
        _remember(memo, dict(zip(stats, digests, strict=True)))
    return digests


def stat_of(path: Path) -> str:
    """Which file it is, and whether it has changed; among it is the time of its last change, which nobody can set."""
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return f"{path.absolute()} {stat.st_size} {stat.st_ino} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _settled(path: Path) -> bool:
    return time.time() - path.stat().st_ctime > SETTLED_S


def _known(memo: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError, RecursionError, TypeError):
        return {str(stat): str(digest) for stat, digest in dict(json.loads(memo.read_bytes())).items()}
    return {}


def _clear_leftovers(cache_root: Path) -> None:
    """Remove what killed writers of memos left. Where one lives on another host, it only fails to remember."""
    with contextlib.suppress(OSError):
        for place in cache_root.glob(".tmp-digests-*.json-*"):
            found = _LEFTOVER.fullmatch(place.name)
            if found is not None and not disk.is_alive(int(found[1])):
                place.unlink()


def _remember(memo: Path, digests: dict[str, str]) -> None:
    """It saves time and nothing else, so a disk that is full or read-only is no matter here."""
    with contextlib.suppress(OSError, StorageError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_file(memo, json.dumps(digests, indent=1).encode())
