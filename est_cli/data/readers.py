"""One text file to pieces of documents: .txt, .jsonl and .parquet, the first two also as .gz, .xz and .zst.

.txt: the whole file is one document; it is read in pieces that end at a line where a line ends in time. A byte order
mark is dropped and line ends become "\\n". .jsonl and .parquet: a document a row, its text as it stands.
Whatever cannot be read exactly is a DataError that says where: `file:line`, or `file:row` for parquet.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from est_cli.data.pieces import Advance, Piece
from est_cli.errors import DataError

CHUNK = 256 * 1024
"""Bytes of a .txt file that make a piece."""
MAX_LINE = 64 * 1024 * 1024
"""Longest line of a .jsonl file, in bytes."""

PACKED = (".gz", ".xz", ".zst")


def read_file(path: Path, fields: Sequence[str], advance: Advance) -> Iterator[Piece]:
    """The documents of one file; `fields` are the names under which a row may keep its text. Raises DataError."""
    kind, _ = file_kind(path)
    try:
        with _Counted(path, advance) as raw:
            yield from READERS[kind](_unpacked(raw, path), str(path), fields)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read to the end ({reason(error)})") from error


def file_kind(path: Path) -> tuple[str, str]:
    """The suffixes that say how a file is read: (".jsonl", ".xz"), or (".txt", "") where it is not packed."""
    packing = path.suffix if path.suffix in PACKED else ""
    kind = path.with_suffix("").suffix if packing else path.suffix
    if kind not in READERS or (packing and kind == ".parquet"):
        raise DataError(f"{path}: of unknown kind; .txt, .jsonl (also .gz, .xz, .zst of these) and .parquet are read")
    return kind, packing


def row_text(row: Any, fields: Sequence[str], where: str) -> str:
    """The text of one row: the first of `fields` that it has. Raises DataError, starting with `where`."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, this one is of type {type(row).__name__}")
    text = row[_present(list(row), fields, where)]
    if not isinstance(text, str):
        raise DataError(f"{where}: the text must be a string, it is of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text has half a surrogate pair, which is no Unicode character") from error
    return text


def _present(names: list[str], fields: Sequence[str], where: str) -> str:
    """The first of `fields` among `names`."""
    for field in fields:
        if field in names:
            return field
    have = ", ".join(repr(name[:40]) for name in names[:10]) or "none"
    raise DataError(f"{where}: no field {' or '.join(fields)} (dataset.text_fields); the fields here are: {have}")


class _Counted(io.FileIO):
    """A file that reports how many of its bytes were read, before any unpacking."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self._advance(count)
        return count


def _unpacked(raw: io.FileIO, path: Path) -> BinaryIO:
    stream: Any = io.BufferedReader(raw, CHUNK)
    packing = file_kind(path)[1]
    if packing == ".gz":
        stream = io.BufferedReader(gzip.GzipFile(fileobj=stream), CHUNK)
    elif packing == ".xz":
        stream = io.BufferedReader(lzma.LZMAFile(stream), CHUNK)  # noqa: SIM115
    elif packing == ".zst":
        import pyarrow as pa  # a second to import, and its zstd notices a truncated file

        stream = io.BufferedReader(pa.CompressedInputStream(stream, "zstd"), CHUNK)
    return cast(BinaryIO, stream)


def reason(error: BaseException) -> str:
    """What an exception of a library says, on one line."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__


def _read_text(file: BinaryIO, name: str, fields: Sequence[str] = ()) -> Iterator[Piece]:
    """The file as one document, in pieces of about CHUNK bytes."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    line, held = 1, ""
    while data := file.read(CHUNK):
        data += file.readline(CHUNK)
        text = _decoded(decoder, data, name, line)
        line += text.count("\n")
        if held:
            yield Piece(held, ends=False)
        held = text
    yield Piece(held + _decoded(decoder, b"", name, line), ends=True)


def _decoded(decoder: io.IncrementalNewlineDecoder, data: bytes, name: str, line: int) -> str:
    """`data` as text; no data: what the decoder still holds. `line` is where the data starts."""
    try:
        text = decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        raise DataError(f"{name}:{line}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from error
    if "\0" in text:
        line += text[: text.index("\0")].count("\n")
        raise DataError(f"{name}:{line}: has a NUL byte, so this is no UTF-8 text")
    return text


def _read_jsonl(file: BinaryIO, name: str, fields: Sequence[str]) -> Iterator[Piece]:
    lines = iter(lambda: file.readline(MAX_LINE + 1), b"")
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        if len(line) > MAX_LINE:
            raise DataError(f"{where}: the line is longer than {MAX_LINE} bytes")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield Piece(row_text(_json(line.rstrip(b"\r\n"), where), fields, where), ends=True)


def _json(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte 0x{line[error.start]:02x})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested brackets
        raise DataError(f"{where}: not JSON that can be read ({type(error).__name__})") from error


def _read_parquet(file: BinaryIO, name: str, fields: Sequence[str]) -> Iterator[Piece]:
    import pyarrow as pa  # only these files need it
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file)
        field = _present(table.schema_arrow.names, fields, name)
        row = 0
        for batch in table.iter_batches(batch_size=256, columns=[field]):
            for value in batch.column(0):
                row += 1
                yield Piece(_parquet_text(value, field, f"{name}:{row}"), ends=True)
    except pa.ArrowException as error:
        raise DataError(f"{name}: not readable as parquet ({reason(error)})") from error


def _parquet_text(value: Any, field: str, where: str) -> str:
    try:
        return row_text({field: value.as_py()}, [field], where)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: the text is not UTF-8") from error


Reader = Callable[[BinaryIO, str, Sequence[str]], Iterator[Piece]]
READERS: dict[str, Reader] = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
