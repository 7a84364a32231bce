"""A far file as a stream of bytes: in blocks, and on from the byte where a transfer broke."""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from time import sleep
from typing import Any, TypeVar

from est_cli.common.errors import DataError
from est_cli.common.urls import WEB, scheme_of
from est_cli.data.text.far import stores, web
from est_cli.data.text.far.file import Broken, FarFile

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 7
"""In a row, without a byte between them: after about a minute it is given up."""
FIRST_WAIT_S = 1.0
"""Before the second try; each further wait is twice as long."""
LONGEST_WAIT_S = 60.0
"""That a server may ask for."""
BLOCK = 4 * 1024 * 1024
"""Bytes that are asked for at once: a connection is done with before its bytes are worked on."""
KEPT = 16
"""Blocks in memory of a file that is read here and there."""


def find(pattern: str) -> list[FarFile]:
    """The files that an address, or a glob of a store, means. Raises DataError."""
    return [ask(pattern)] if scheme_of(pattern) in WEB else _patiently(pattern, stores.find)


def ask(url: str) -> FarFile:
    """What the server says of a file now. Raises DataError."""
    return _patiently(url, _by(url).stat)


def pieces(file: FarFile, start: int, stop: int) -> Iterator[bytes]:
    """The bytes from `start` to before `stop`, whatever breaks on the way. Raises DataError."""
    patience = _Patience(file.url)
    while start < stop:
        try:
            for piece in _by(file.url).read(file, start, stop):
                start += len(piece)
                patience.failures = 0
                yield piece
            if start < stop:
                raise Broken(f"the transfer ended at byte {start}, before byte {stop}")
        except Broken as error:
            patience.wait(error)


def _by(url: str) -> Any:
    return web if scheme_of(url) in WEB else stores


def _patiently(url: str, function: Callable[[str], T]) -> T:
    patience = _Patience(url)
    while True:
        try:
            return function(url)
        except Broken as error:
            patience.wait(error)


class _Patience:
    """Waits longer after each failure in a row, and at last for none."""

    def __init__(self, url: str) -> None:
        self.failures = 0
        self._url = url

    def wait(self, error: Broken) -> None:
        self.failures += 1
        if self.failures == TRIES:
            raise DataError(f"{self._url}: {error}; tried {TRIES} times in a row, start again to continue") from error
        wait = max(FIRST_WAIT_S * 2 ** (self.failures - 1), min(error.wait_s, LONGEST_WAIT_S))
        log.warning("%s: %s; again in %g s", self._url, error, wait)
        sleep(wait)


class FarReader(io.RawIOBase):
    """The file as a stream for io.BufferedReader; `advance` is told of the bytes that came.

    Of a server without ranges it can only be read from its beginning to its end.
    """

    def __init__(self, file: FarFile, advance: Callable[[int], None], kept: int = 1) -> None:
        super().__init__()
        self._file, self._advance, self._kept = file, advance, kept
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._stream = pieces(file, 0, file.size)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.ranges

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if not self._file.ranges:
            raise io.UnsupportedOperation("the server gives no part of the file alone")
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._block_at(self._at) if self._file.ranges else self._next()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        self._at += count
        self._rest = self._rest[count:]
        return count

    def _next(self) -> bytes:
        if not self._rest:
            self._rest = next(self._stream, b"")
            self._advance(len(self._rest))
        return self._rest

    def _block_at(self, at: int) -> memoryview:
        """The bytes from `at` to the end of their block; none behind the end of the file."""
        number, start = divmod(at, BLOCK)
        if at >= self._file.size:
            return memoryview(b"")
        if number not in self._blocks:
            first = number * BLOCK
            self._blocks[number] = b"".join(pieces(self._file, first, min(first + BLOCK, self._file.size)))
            self._advance(len(self._blocks[number]))
        self._blocks.move_to_end(number)
        while len(self._blocks) > self._kept:
            self._blocks.popitem(last=False)
        return memoryview(self._blocks[number])[start:]
