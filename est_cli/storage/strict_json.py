"""JSON that may come from someone else: no duplicate keys, no NaN or infinity, an object at the top."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 1 << 20


def read_file(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """read_object of a file. OSError where it cannot be read."""
    return read_object(read_bytes(path, limit), limit)


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes: ValueError for a larger one, of which no more is read."""
    # Not blocking: a pipe in the file's place would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return _bounded(file.read(limit + 1), limit)


def read_object(data: bytes, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The object written in `data`, of at most `limit` bytes. ValueError says in one line what is wrong with it."""
    _bounded(data, limit)
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def write_object(obj: dict[str, Any], limit: int = MAX_BYTES) -> bytes:
    """The one way an object is written: sorted keys, a newline at the end. ValueError for what cannot be read back."""
    try:
        data = (json.dumps(obj, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _bounded(data, limit)


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return data


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("the same key twice in one object")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)
