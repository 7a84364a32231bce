"""SHA-256 of what a cache depends on: contents, never names or times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from est_cli.errors import DataError


def fingerprint(*parts: object) -> str:
    """One digest, in hex, over plain values (whatever JSON can say)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def digest_files(paths: Iterable[Path]) -> list[str]:
    """The digest of each file's bytes."""
    return [digest_file(path) for path in paths]


def digest_file(path: Path) -> str:
    """The digest of a file's bytes, in hex. Raises DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
