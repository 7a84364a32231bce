"""Files that are given for raw token ids and are something else: told by their first bytes, or by their ids.

Nothing here is decided by a name. A file is refused only where its content fits the other form in every place that is
looked at, which ids do not do by chance.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import DataError
from est_cli.data.text.repeats import refuse_or_tell
from est_cli.storage.cache import intact

HEAD_BYTES = 1 << 16
SAMPLE_BYTES = 1 << 18
"""Looked at for patterns at the start, in the middle and at the end; a multiple of every type's size."""
FEWEST_IDS = 64
"""A pattern in fewer is chance."""

_UNPACKED = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh91AY&SY": "bzip2"}
_CONTAINERS = {
    b"ARROW1\x00\x00": "an Arrow file",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
}


def refuse_other_formats(path: Path) -> None:
    """Raise DataError where the file has the header, or the frame, of a format that is known; or is text."""
    try:
        with path.open("rb") as file:
            head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
            file.seek(max(0, size - HEAD_BYTES))
            tail = file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for seems in _FORMATS:
        if (found := seems(head, tail, size)) is not None:
            raise DataError(f"{path}: {found.replace('FILE', path.name)}")


def refuse_other_tokenizer(path: Path, digest: str, begun: bool) -> None:
    """Refuse a file of est's own cache, which says what tokenizer made it, where `digest` is another one's."""
    made_by = str((intact(path.parent, full=False) or {}).get("tokenizer", digest))
    if made_by != digest:
        own = f"tokenizer= has the fingerprint {digest[:12]}"
        refuse_or_tell(f"{path}: a tokenizer with the fingerprint {made_by[:12]} made these ids, {own}", begun)


def refuse_wider(path: Path, dtype: np.dtype, vocab_size: int) -> None:
    """Raise DataError where the ids, read as `dtype`, are the halves and quarters of wider integers."""
    high = (vocab_size - 1) >> 16  # the largest upper half of an id
    samples = [piece for piece in _pieces(path, dtype) if len(piece) >= FEWEST_IDS]
    for parts, limit in ((4, high), (2, high)) if dtype.itemsize == 2 else ((2, 0),):
        if samples and all(_is_wider(piece, parts, limit) for piece in samples):
            bits, apart = 8 * dtype.itemsize * parts, "second" if parts == 2 else "fourth"
            raise DataError(
                f"{path}: holds integers of {bits} bits: read as {dtype.name}, only every {apart} one is "
                f"more than {limit}; {_how_to_give(path, bits, vocab_size)}"
            )


def fitting_types(path: Path, dtype: np.dtype, vocab_size: int) -> str:
    """` (read as ... they would fit)` for a file whose ids do not, or nothing."""
    others = [np.dtype(name) for name in ("<u2", "<u4", "<i8", ">u2", ">u4") if np.dtype(name) != dtype]
    fit = [other for other in others if _fits(path, other, vocab_size)]
    names = " or ".join(f"{other.name}{' (big-endian)' if other.str[0] == '>' else ''}" for other in fit)
    return f" (read as {names} they would fit)" if names else ""


def _how_to_give(path: Path, bits: int, vocab_size: int) -> str:
    if bits == 32:
        return "dataset.token_dtype=uint32"
    kind = "uint16" if vocab_size <= 1 << 16 else "uint32"
    return f"np.fromfile('{path.name}', '<i8').astype('{kind}').tofile('ids.bin') makes one of {kind}"


def _pieces(path: Path, dtype: np.dtype) -> Iterator[NDArray[np.integer]]:
    """The ids at the start, in the middle and at the end."""
    size = path.stat().st_size
    for first in sorted({0, size // 16 * 8, max(0, size - SAMPLE_BYTES) // 8 * 8}):
        with path.open("rb") as file:
            file.seek(first)
            data = file.read(SAMPLE_BYTES)
        yield np.frombuffer(data[: len(data) // 8 * 8], dtype)


def _is_wider(ids: NDArray[np.integer], parts: int, limit: int) -> bool:
    table = ids[: len(ids) // parts * parts].reshape(-1, parts)
    upper, lower = table[:, 1:], table[:, 0]
    return bool((upper[:, 0] <= limit).all() and not upper[:, 1:].any() and np.count_nonzero(lower) * 2 > len(lower))


def _fits(path: Path, dtype: np.dtype, vocab_size: int) -> bool:
    if path.stat().st_size % dtype.itemsize:
        return False
    return all(int(piece.min()) >= 0 and int(piece.max()) < vocab_size for piece in _pieces(path, dtype) if len(piece))


def _packed(head: bytes, tail: bytes, size: int) -> str | None:
    name = next((name for magic, name in _UNPACKED.items() if head.startswith(magic)), None)
    if name is None and head.startswith(b"\x1f\x8b\x08") and _is_gzip(head):
        name = "gzip"
    return None if name is None else f"is packed with {name}; {name} -dc FILE > ids.bin unpacks it"


def _is_gzip(head: bytes) -> bool:
    """Three bytes may be ids; the stream behind them cannot."""
    try:
        return bool(zlib.decompressobj(wbits=31).decompress(head, 1 << 16))
    except zlib.error:
        return False


def _container(head: bytes, tail: bytes, size: int) -> str | None:
    name = next((name for magic, name in _CONTAINERS.items() if head.startswith(magic)), None)
    if head.startswith(b"PAR1") and tail.endswith(b"PAR1"):
        return "is a parquet file; dataset=text trains on the texts of one, and its ids must be written alone"
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(io.BytesIO(tail)):
        name = "a zip archive (.npz and .pt are)"
    if len(head) > 10 and head[8:10] == b'{"' and 0 < int.from_bytes(head[:8], "little") < min(size, 100_000_000):
        name = "a safetensors file"
    return None if name is None else f"is {name}; write the ids alone, ids.astype('uint16').tofile('ids.bin')"


def _text(head: bytes, tail: bytes, size: int) -> str | None:
    """Ids of 16 bits have a byte that prints nothing soon enough; a tokenizer of bytes has one in each."""
    if size < 2 * FEWEST_IDS or not (_is_printable(head) and _is_printable(tail)):
        return None
    return "is text and holds no token ids; dataset=text trains on it"


def _is_printable(data: bytes) -> bool:
    """Apart from a character that is cut at the start or at the end."""
    text = data.decode("utf-8", errors="replace")[4:-4]
    return "\ufffd" not in text and all(sign.isprintable() or sign in "\n\r\t\f" for sign in text)


_Format = Callable[[bytes, bytes, int], str | None]
_FORMATS: tuple[_Format, ...] = (_packed, _container, _text)
"""(first bytes, last bytes, size) -> what the file is and how to give it; None: not that."""
