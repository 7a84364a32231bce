"""How large the batches of a .arrow file are before anything is unpacked: a few kilobytes of it can say terabytes.

A batch is unpacked whole, and pyarrow takes the memory that its buffers ask for: of a packed one the first 8 bytes say
how large it becomes. Where buffers lie, the message before them says, a FlatBuffer (Message.fbs of apache/arrow). Both
forms of .arrow files are the same messages; the one for random access has a mark before them, a list of them behind,
and the mark again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from est_cli.common.errors import DataError

MAX_BATCH = 1024 * 1024 * 1024
"""Bytes of a packed batch, unpacked. Writers make batches of a thousand rows, or of 64 K."""
MARK, MARK_BYTES = b"ARROW1", 8
HEADER_TYPE, HEADER = 1, 2
"""Fields of a message."""
DICTIONARY, BATCH = 2, 3
"""Kinds of headers that have buffers; the batch of a dictionary is in its field 1."""
BUFFERS, COMPRESSION = 2, 3
"""Fields of a batch."""


class CheckedMessages:
    """A file for pyarrow's open_stream: the messages of `file`, each looked at before it is handed on.

    Reading raises DataError where a batch is larger than MAX_BATCH; `name` is for messages.
    """

    closed = False

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._messages, self._name = _messages(file, name), name
        self._left = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer at the end."""
        found = bytearray()
        while len(found) < size or size < 0:
            if not self._left:
                message = next(self._messages, None)
                if message is None:
                    break
                self._check(message)
                self._left = memoryview(message.serialize())
            take = len(self._left) if size < 0 else size - len(found)
            found += self._left[:take]
            self._left = self._left[take:]
        return bytes(found)

    def _check(self, message: Any) -> None:
        try:
            size = unpacked_size(bytes(message.metadata), memoryview(message.body or b""))
        except (struct.error, IndexError) as error:
            raise DataError(f"{self._name}: not readable as .arrow (a message has no proper header)") from error
        if size > MAX_BATCH:
            raise DataError(
                f"{self._name}: has a batch of {size:,} bytes when unpacked, more than {MAX_BATCH:,}; write it with "
                "fewer rows in a batch"
            )


def _messages(file: BinaryIO, name: str) -> Iterator[Any]:
    import pyarrow.ipc as ipc  # a second to import, and only these files need it

    for_random_access = file.read(len(MARK)) == MARK
    if for_random_access:
        file.seek(-len(MARK), os.SEEK_END)
        if file.read() != MARK:
            raise DataError(f"{name}: not readable as .arrow (its end is missing)")
    file.seek(MARK_BYTES if for_random_access else 0)
    return iter(ipc.MessageReader.open_stream(file))


def unpacked_size(metadata: bytes, body: memoryview) -> int:
    """Bytes of a message's buffers when unpacked; 0 where nothing is packed. Raises struct.error for a broken one."""
    message = _at_offset(metadata, 0)
    kind_at, header_at = _field(metadata, message, HEADER_TYPE), _field(metadata, message, HEADER)
    kind = metadata[kind_at] if kind_at else 0
    if kind not in (DICTIONARY, BATCH) or not header_at:
        return 0
    batch = _at_offset(metadata, header_at)
    if kind == DICTIONARY:
        data = _field(metadata, batch, 1)
        batch = _at_offset(metadata, data) if data else batch
    buffers = _field(metadata, batch, BUFFERS)
    if not buffers or not _field(metadata, batch, COMPRESSION):
        return 0
    first = _at_offset(metadata, buffers)
    (count,) = struct.unpack_from("<I", metadata, first)
    sizes = 0
    for number in range(count):
        offset, length = struct.unpack_from("<qq", metadata, first + 4 + 16 * number)
        if length:
            (size,) = struct.unpack_from("<q", body, offset)
            sizes += max(size, 0)  # -1: this one is not packed
    return sizes


def _at_offset(data: bytes, at: int) -> int:
    """Where what is told of at `at` begins."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0: the table does not have it."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    (size,) = struct.unpack_from("<H", data, fields)
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", data, fields + at)[0] if at < size else 0
    return table + int(offset) if offset else 0
