"""How large the pages of a .parquet file are before anything is unpacked: a few kilobytes of it can say 2 GB each.

A page is unpacked whole, and pyarrow takes the memory that its header asks for. Headers are Thrift structs in the
compact protocol (parquet.thrift of apache/parquet-format): field 2 is the size of the page unpacked, field 3 as it lies
there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from est_cli.common.errors import DataError

MAX_PAGE = 512 * 1024 * 1024
"""Bytes of a page, unpacked. Writers make pages of 1 MB, or of a thousand rows."""
MAX_HEADER = 64 * 1024
MAX_DEPTH = 16

STOP, TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12


def largest_page(file: BinaryIO, group: Any, columns: Collection[str], name: str) -> int:
    """Bytes of the largest page, unpacked, of these columns of a row group (pyarrow's RowGroupMetaData).

    Raises DataError where one is larger than MAX_PAGE, or a header cannot be read.
    """
    largest = 0
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema.partition(".")[0] in columns:
            largest = max([largest, *_page_sizes(file, chunk, name)])
    if largest > MAX_PAGE:
        raise DataError(
            f"{name}: has a page of {largest:,} bytes, more than {MAX_PAGE:,}; write it with fewer rows in a row group"
        )
    return largest


def _page_sizes(file: BinaryIO, chunk: Any, name: str) -> Iterator[int]:
    at = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
    end = at + chunk.total_compressed_size
    while at < end:
        file.seek(at)
        try:
            fields, length = _header(file.read(min(MAX_HEADER, end - at)))
            unpacked, packed = fields[2], fields[3]
        except (IndexError, KeyError, RecursionError) as error:
            raise DataError(f"{name}: not readable as parquet (a page at byte {at} has no proper header)") from error
        yield unpacked
        if packed < 0:
            raise DataError(f"{name}: not readable as parquet (a page at byte {at} has a negative size)")
        at += length + packed


def _header(data: bytes) -> tuple[dict[int, int], int]:
    """The numbers among a struct's fields, by the field's number, and the length of the struct in bytes."""
    numbers: dict[int, int] = {}
    at, number = 0, 0
    while kind := data[at] & 15:
        step = data[at] >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _integer(data, at)
        if BYTE < kind < DOUBLE:
            numbers[number], at = _integer(data, at)
        else:
            at = _behind(data, at, kind, MAX_DEPTH)
    return numbers, at + 1


def _behind(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where a value of this kind, which begins at `at`, has ended."""
    if depth == 0:
        raise RecursionError
    if kind in (TRUE, FALSE):
        return at
    if kind in (BYTE, DOUBLE):
        return at + (1 if kind == BYTE else 8)
    if kind == BINARY:
        length, at = _natural(data, at)
        return at + length
    if kind in (LIST, SET):
        count, inner = data[at] >> 4, data[at] & 15
        at += 1
        if count == 15:
            count, at = _natural(data, at)
        for _ in range(count):
            at = at + 1 if inner in (TRUE, FALSE) else _behind(data, at, inner, depth - 1)
            data[at - 1]  # ends with the data, whatever the count says
        return at
    if kind == STRUCT:
        while kind := data[at] & 15:
            at = at + 1 if data[at] >> 4 else _natural(data, at + 1)[1]
            at = _behind(data, at, kind, depth - 1)
        return at + 1
    if kind == MAP:
        raise IndexError("no page header has one")
    return _natural(data, at)[1]


def _natural(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number of seven bits a byte, and where it has ended."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _natural(data, at)
    return (value >> 1) ^ -(value & 1), at
