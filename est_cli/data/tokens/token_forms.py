"""How ids lie in a file of theirs: alone, in an array of NumPy, in a shard of llm.c, or as Megatron writes them.

The first bytes tell, never the name (of a .bin file, those of the .idx beside it). What a header says is believed where
it fits the size of the file to the byte.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import ConfigError, DataError, reason

RAW = ""
NPY = "array of NumPy"
LLMC = "shard of llm.c or modded-nanogpt"
MEGATRON = "data set of Megatron"

LOOKED_AT = 100
"""First documents whose last id tells whether end-of-text was appended."""

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER = 10_000
"""Bytes of a header at most; NumPy's own of plain integers have 128."""
_LLMC_BYTES = 1024
_LLMC_MAGICS = {20240520: "<u2", 20240801: "<u4"}
_MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_HEADER = struct.Struct("<9sQBQQ")
"""Magic, version, type of the ids, numbers of sequences and of entries of the document index."""
_MEGATRON_TYPES = {1: "|u1", 2: "|i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_ENTRIES = 1 << 20
"""Of an index, looked at at once."""


@dataclass(frozen=True)
class TokenFile:
    """`count` ids of `dtype` from byte `offset` of a file on; `form` is what it is, one of the constants above.

    `document_ends`: positions behind the first documents, where the file's index tells them.
    """

    path: Path
    dtype: np.dtype
    offset: int
    count: int
    form: str = RAW
    document_ends: tuple[int, ...] = ()


def token_file(path: Path, declared: str | None) -> TokenFile:
    """What the file is; `declared` is dataset.token_dtype. Raises DataError, and ConfigError where these disagree."""
    try:
        with path.open("rb") as file:
            head, size = file.read(_NPY_HEADER + 16), os.fstat(file.fileno()).st_size
        found = _npy(path, head, size) or _llmc(path, head, size) or _megatron(path, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    if found is None:
        return _raw(path, size, np.dtype(declared or "uint16").newbyteorder("<"))
    if not found.count:
        raise DataError(f"{path}: is a {found.form} without any ids")
    if declared is not None and np.dtype(declared).itemsize != found.dtype.itemsize:
        raise ConfigError(
            f"dataset.token_dtype: is {declared}, but {path} holds {found.dtype.name} ({found.form}); leave it out"
        )
    return found


def without_index(paths: list[Path]) -> list[Path]:
    """The same files, for a Megatron index the .bin beside it; each once. Raises DataError."""
    return list(dict.fromkeys(map(_bin_of, paths)))


def _raw(path: Path, size: int, dtype: np.dtype) -> TokenFile:
    if size == 0 or size % dtype.itemsize:
        raise DataError(f"{path}: has {size} bytes, not a whole number of {dtype.name} ids (dataset.token_dtype)")
    return TokenFile(path, dtype, 0, size // dtype.itemsize)


def _npy(path: Path, head: bytes, size: int) -> TokenFile | None:
    if not head.startswith(_NPY_MAGIC):
        return None
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file, max_header_size=_NPY_HEADER)
    except Exception as error:  # a header is parsed as Python, and many kinds of errors come of that
        raise DataError(f"{path}: is an array of NumPy whose header cannot be read ({reason(error)})") from error
    if dtype.kind not in "iu":
        raise DataError(f"{path}: is an array of NumPy of {str(dtype)[:60]}, and ids are integers")
    if by_columns and len(shape) > 1:
        raise DataError(
            f"{path}: is an array of NumPy in Fortran's order, column by column; "
            f"np.save('ids.npy', np.ascontiguousarray(np.load('{path.name}'))) makes one in rows"
        )
    count = math.prod(shape)
    if size != file.tell() + count * dtype.itemsize:
        raise DataError(f"{path}: is an array of NumPy of {count} {dtype.name}, which do not fit its {size} bytes")
    return TokenFile(path, dtype, file.tell(), count, NPY)


def _llmc(path: Path, head: bytes, size: int) -> TokenFile | None:
    """Raw ids may begin like one, but not go on so: with zeros, or with the number of those that follow."""
    if len(head) < _LLMC_BYTES:
        return None
    magic, _, count, *rest = struct.unpack_from("<256i", head)
    if magic not in _LLMC_MAGICS:
        return None
    dtype = np.dtype(_LLMC_MAGICS[magic])
    fits = size == _LLMC_BYTES + count * dtype.itemsize
    if not fits and any(rest):
        return None
    if not fits:
        told = f"{count} {dtype.name} by its header, which do not fit its {size} bytes"
        raise DataError(f"{path}: is a {LLMC} of {told}; was it copied to its end?")
    return TokenFile(path, dtype, _LLMC_BYTES, count, LLMC)


def _bin_of(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            is_index = file.read(len(_MEGATRON_MAGIC)) == _MEGATRON_MAGIC
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    if not is_index:
        return path
    found = path.with_suffix(".bin")
    if found == path or not found.is_file():
        raise DataError(f"{path}: is the index of a Megatron data set, whose ids lie in {found.name}: there is none")
    return found


def _megatron(path: Path, size: int) -> TokenFile | None:
    """The ids of a .bin by its index; sequences follow each other there without gaps, or it is refused."""
    index = path.with_suffix(".idx")
    if path.suffix != ".bin" or not index.is_file():
        return None
    with index.open("rb") as file:
        head, index_size = file.read(_MEGATRON_HEADER.size), os.fstat(file.fileno()).st_size
        if not head.startswith(_MEGATRON_MAGIC):
            return None
        dtype, sequences, entries = _index_header(index, head, index_size)
        count, ends = _sequences(index, sequences, dtype.itemsize, [*_documents(index, sequences, entries)])
    if size != count * dtype.itemsize:
        raise DataError(f"{path}: has {size} bytes, but {index.name} tells of {count} ids of {dtype.name}")
    return TokenFile(path, dtype, 0, count, MEGATRON, ends)


def _index_header(index: Path, head: bytes, size: int) -> tuple[np.dtype, int, int]:
    """Type of the ids, number of sequences, entries of the document index."""
    if len(head) < _MEGATRON_HEADER.size:
        raise DataError(f"{index}: ends within its header")
    _, version, code, sequences, entries = _MEGATRON_HEADER.unpack(head)
    if version != 1:
        raise DataError(f"{index}: is a Megatron index of version {version}; version 1 is read")
    if code not in _MEGATRON_TYPES:
        raise DataError(f"{index}: its ids are of the type {code}; integers (1 to 5, 8) are read")
    if size != _MEGATRON_HEADER.size + 12 * sequences + 8 * entries:
        told = f"{sequences} sequences and {entries} entries of documents"
        raise DataError(f"{index}: {told} by its header, which do not fit its {size} bytes")
    return np.dtype(_MEGATRON_TYPES[code]), sequences, entries


def _documents(index: Path, sequences: int, entries: int) -> Iterator[int]:
    """How many sequences there are up to the end of each of the first documents. Raises DataError."""
    first, before = _MEGATRON_HEADER.size + 12 * sequences, 0
    for start, found in _entries(index, "<i8", first, entries):
        if (np.diff(found, prepend=before) < 0).any() or (start == 0 and found[0] != 0):
            raise DataError(f"{index}: its documents do not follow each other")
        yield from found[1 : 1 + LOOKED_AT].tolist() if start == 0 else ()
        before = int(found[-1])
    if before != sequences:
        raise DataError(f"{index}: its documents end with sequence {before} of {sequences}")


def _sequences(index: Path, sequences: int, width: int, documents: list[int]) -> tuple[int, tuple[int, ...]]:
    """How many ids the sequences have, and the positions behind those that end one of `documents`. Raises DataError."""
    sizes = _entries(index, "<i4", _MEGATRON_HEADER.size, sequences)
    pointers = _entries(index, "<i8", _MEGATRON_HEADER.size + 4 * sequences, sequences)
    total, ends = 0, list[int]()
    for (start, lengths), (_, places) in zip(sizes, pointers, strict=True):
        behind = total + np.cumsum(lengths, dtype=np.int64)
        if (lengths < 0).any() or not np.array_equal(places, width * (behind - lengths)):
            raise DataError(f"{index}: its sequences do not follow each other in the .bin file")
        ends += [int(behind[last - 1 - start]) for last in documents if start < last <= start + len(behind)]
        total = int(behind[-1])
    return total, tuple(ends)


def _entries(index: Path, dtype: str, offset: int, count: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """(number of the first, entries) of a table, in pieces."""
    width = np.dtype(dtype).itemsize
    for start in range(0, count, _ENTRIES):
        yield start, np.fromfile(index, dtype, min(_ENTRIES, count - start), offset=offset + start * width)
