"""Token ids that lie in files, read as if they were one long array; the user's own (source=tokens) where they lie.

T tokens of a block.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig
from est_cli.data.foreign_tokens import fitting_types, refuse_other_formats, refuse_wider
from est_cli.data.repeats import refuse_or_tell
from est_cli.data.sources import expand
from est_cli.storage.digest import fingerprint, remembered_digests

log = logging.getLogger(__name__)

MANY_ZEROS = 0.8
"""Share of the ids; no token is most of a text, and a file that was laid out but not filled is zeros."""

MAX_OPEN = 384
"""Files that are open at once: a process often has no more than 1,024 file descriptors."""
MAX_READ = 1 << 30
"""Bytes of one system call, which has a limit of its own."""


@dataclass(frozen=True)
class TokenSpan:
    """The ids from `start` to before `stop` of a file of raw little-endian `dtype`."""

    path: Path
    dtype: str
    start: int
    stop: int


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
            cut.append(TokenSpan(span.path, span.dtype, span.start + low, span.start + high))
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
            piece = os.pread(file.fd, min(count * size - len(data), MAX_READ), first * size + len(data))
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


DTYPES = {"uint16": "<u2", "uint32": "<u4"}
CHUNK_TOKENS = 1 << 22


def open_token_files(
    dataset: DatasetConfig, vocab_size: int, known: int, cache_root: Path, verify: bool = True, begun: bool = False
) -> tuple[TokenStream, TokenStream | None, str]:
    """The training ids, the validation ids where `validation_files` names them, and the digest of both.

    Raises DataError where a file holds something else, or an id does not fit a vocabulary of `vocab_size`; warns of one
    that the tokenizer, which has `known` tokens, could not have made. Without `verify`, another process looks. A copy
    for validation is refused, or where the run has `begun` told.
    """
    if dataset.token_dtype not in DTYPES:
        raise ConfigError(f"dataset.token_dtype: is {dataset.token_dtype!r}; must be {' or '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[dataset.token_dtype])
    paths = [_single(dataset.files, "dataset.files")]
    if dataset.validation_files:
        paths.append(_single(dataset.validation_files, "dataset.validation_files"))
    if verify:
        for path in paths:
            refuse_other_formats(path)
    streams = [_stream(path, dtype) for path in paths]
    if verify:
        for stream, path in zip(streams, paths, strict=True):
            refuse_wider(path, dtype, vocab_size)
            largest, zeros = _largest(stream, path, dtype, vocab_size)
            if zeros > MANY_ZEROS * len(stream):
                log.warning("%s: %d %% of its ids are 0; was it written to its end?", path, 100 * zeros // len(stream))
            if largest >= known:
                message = "%s: holds the id %d, but the tokenizer has %d tokens only; another one made these ids"
                log.warning(message, path, largest, known)
    digests = remembered_digests(paths, cache_root, verify)
    if len(set(digests)) < len(paths):
        refuse_or_tell(
            f"dataset.validation_files: {paths[1]} has the content of dataset.files; no text may be in both", begun
        )
    return streams[0], streams[1] if len(streams) == 2 else None, fingerprint("tokens", digests, dtype.str)


def _single(patterns: list[str], key: str) -> Path:
    paths = expand(patterns, key)
    if len(paths) != 1:
        raise ConfigError(f"{key}: source=tokens needs exactly one file of token ids, these are {len(paths)}")
    return paths[0]


def _stream(path: Path, dtype: np.dtype) -> TokenStream:
    size = path.stat().st_size
    if size == 0 or size % dtype.itemsize:
        raise DataError(f"{path}: has {size} bytes, not a whole number of {dtype.name} ids (dataset.token_dtype)")
    return TokenStream([TokenSpan(path, dtype.str, 0, size // dtype.itemsize)])


def _largest(tokens: TokenStream, path: Path, dtype: np.dtype, vocab_size: int) -> tuple[int, int]:
    """(the largest id, how many are 0); all must be below `vocab_size`."""
    largest = zeros = 0
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens.read(start, min(start + CHUNK_TOKENS, len(tokens)))
        largest, zeros = max(largest, int(chunk.max())), zeros + len(chunk) - int(np.count_nonzero(chunk))
        if largest >= vocab_size:
            at = start + int(np.argmax(chunk >= vocab_size))
            raise DataError(
                f"{path}: id {int(chunk[at - start])} at position {at}, but the model has {vocab_size} tokens; "
                "is it another tokenizer's, or another dataset.token_dtype?" + fitting_types(path, dtype, vocab_size)
            )
    return largest, zeros
