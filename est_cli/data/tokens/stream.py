"""Token ids that lie in files, read as if they were one long array.

T tokens of a block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import DataError

MAX_OPEN = 384
"""Files that are open at once: a process often has no more than 1,024 file descriptors."""
MAX_READ = 1 << 30
"""Bytes of one system call, which has a limit of its own."""


@dataclass(frozen=True)
class TokenSpan:
    """The ids from `start` to before `stop` of those of `dtype` that lie in a file from byte `offset` on."""

    path: Path
    dtype: str
    start: int
    stop: int
    offset: int = 0


class TokenStream:
    """The ids of several spans, one after the other; they are read from the disk when they are asked for."""

    def __init__(self, spans: Sequence[TokenSpan]) -> None:
        self._spans = [span for span in spans if span.stop > span.start]
        self._ends = np.array([0, *accumulate(span.stop - span.start for span in self._spans)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """The ids of positions `start` to before `stop`, int64 of shape (stop - start,)."""
        stop = len(self) if stop is None else stop
        ids = np.empty(stop - start, dtype=np.int64)
        self.fill(ids, start)
        return ids

    def fill(self, ids: NDArray[np.int64], start: int) -> None:
        """Read the ids from position `start` on into `ids`, of shape (T,)."""
        assert 0 <= start <= start + len(ids) <= len(self), (start, len(ids), len(self))
        done = 0
        number = int(self._ends.searchsorted(start, "right")) - 1
        while done < len(ids):
            span = self._spans[number]
            at = span.start + start + done - int(self._ends[number])
            count = min(len(ids) - done, span.stop - at)
            ids[done : done + count] = _ids(span, at, count)
            done, number = done + count, number + 1

    def part(self, start: int, stop: int) -> TokenStream:
        """The positions `start` to before `stop` as a stream of their own."""
        cut = []
        for span, begin in zip(self._spans, self._ends.tolist(), strict=False):
            low, high = max(start - begin, 0), min(stop - begin, span.stop - span.start)
            cut.append(replace(span, start=span.start + low, stop=span.start + high))
        return TokenStream(cut)

    def __add__(self, other: TokenStream) -> TokenStream:
        return TokenStream([*self._spans, *other._spans])


def _ids(span: TokenSpan, first: int, count: int) -> NDArray[np.integer]:
    """The ids of positions `first` ... in the file. Raises DataError.

    Not by mapping the file: where the disk fails, or somebody has cut the file, a mapped one kills the process.
    """
    size = np.dtype(span.dtype).itemsize
    data = bytearray()
    try:
        file = opened(span.path)
        while len(data) < count * size:
            piece = os.pread(file.fd, min(count * size - len(data), MAX_READ), span.offset + first * size + len(data))
            if not piece:
                raise DataError(f"{span.path}: ends too early; it was cut after it had been looked at")
            data += piece
    except OSError as error:
        raise DataError(f"{span.path}: cannot be read ({error.strerror})") from error
    return np.frombuffer(data, span.dtype)


class OpenFile:
    """A file to read from, closed when nobody refers to it any more."""

    fd = -1

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at the end of Python `os` may be gone before
        if self.fd >= 0:
            close(self.fd)


opened = lru_cache(maxsize=MAX_OPEN)(OpenFile)


@dataclass(frozen=True)
class Tokens:
    """The ids to train or to validate on: a stream for each source of a mixture, or a single one.

    `proportions`, where given, are those in which TokenBlocks puts the blocks of the streams.
    """

    streams: tuple[TokenStream, ...]
    proportions: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.streams))


CHUNK_TOKENS = 1 << 22
"""Looked at at once."""
