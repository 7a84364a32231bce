"""Token ids that lie in many files, read as if they were one long array. T tokens of a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from est_cli.errors import DataError

MAX_OPEN = 384
"""Files that are mapped at once: each takes a file descriptor, of which a process often has no more than 1,024."""


@dataclass(frozen=True)
class Span:
    """The ids from `start` to before `stop` of a file of raw little-endian `dtype`."""

    path: Path
    dtype: str
    start: int
    stop: int


class TokenStream:
    """The ids of several spans, one after the other; they are read from the disk when they are asked for."""

    def __init__(self, spans: Sequence[Span]) -> None:
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
            part = mapped(span.path, span.dtype)[at : min(at + len(ids) - done, span.stop)]
            ids[done : done + len(part)] = part
            done, number = done + len(part), number + 1

    def part(self, start: int, stop: int) -> TokenStream:
        """The positions `start` to before `stop` as a stream of their own."""
        cut = []
        for span, begin in zip(self._spans, self._ends.tolist(), strict=False):
            low, high = max(start - begin, 0), min(stop - begin, span.stop - span.start)
            cut.append(Span(span.path, span.dtype, span.start + low, span.start + high))
        return TokenStream(cut)

    def __add__(self, other: TokenStream) -> TokenStream:
        return TokenStream([*self._spans, *other._spans])


@lru_cache(maxsize=MAX_OPEN)
def mapped(path: Path, dtype: str) -> np.ndarray:
    """The ids of a whole file. Raises DataError."""
    try:
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Tokens:
    """The ids to train or to validate on: a stream for each source of a mixture, or a single one.

    `proportions`, where given, are those in which TokenBlocks puts the blocks of the streams.
    """

    streams: tuple[TokenStream, ...]
    proportions: tuple[float, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.streams))
