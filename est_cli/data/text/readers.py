"""One text file to pieces of documents, by its suffix; all but .parquet and .arrow also as .gz, .xz and .zst.

.txt, .md: the whole file is one document, unless a separator is named; it is read in pieces that end at a line where a
line ends in time. A byte order mark is dropped and line ends become "\\n". .jsonl, .ndjson, .parquet and those of
tables.py: a document a row, its text as it stands; of a .jsonl file that is not packed any range of bytes can be read
alone: the lines that begin in it. Whatever cannot be read exactly is a DataError that says where: `file:line`, or
`file:row`.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from est_cli.common.errors import DataError, reason
from est_cli.common.urls import is_url
from est_cli.data.text.document_ends import articles, lines, separated
from est_cli.data.text.far import FarFile, FarReader
from est_cli.data.text.far.reader import KEPT
from est_cli.data.text.parquet_pages import largest_page
from est_cli.data.text.pieces import MAX_LINE, Advance, Piece, RowError, Wanted, document
from est_cli.data.text.place import Place
from est_cli.data.text.tables import Row, arrow_rows, csv_rows, json_rows, values_of
from est_cli.storage.digest import fingerprint

CHUNK = 256 * 1024
"""Bytes of a .txt file that make a piece."""
PARQUET_BUFFER = 1024 * 1024
"""Bytes of a column that are read at once; without it a whole row group is held."""
PARQUET_ROWS = 256

PACKED = (".gz", ".xz", ".zst")

ByteSpan = tuple[int, int]
"""Bytes of a file, from the first to before the second. A line belongs to the span in which it begins."""


def read_file(path: Place, wanted: Wanted, advance: Advance, span: ByteSpan | None = None) -> Iterator[Piece]:
    """The documents of one file, or of a span of a file that `can_be_cut`. Raises DataError."""
    kind, _ = file_kind(path)
    try:
        with _opened(path, advance) as raw:
            if span is not None:
                pieces = _read_span(raw, path, span, wanted)
            else:
                pieces = READERS[kind](_unpacked(raw, path), str(path), wanted)
            yield from _documents(pieces, kind, wanted)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read to the end ({reason(error)})") from error


def _documents(pieces: Iterator[Piece], kind: str, wanted: Wanted) -> Iterator[Piece]:
    if kind == ".txt" and wanted.separator:
        return separated(pieces, wanted.separator)
    if wanted.articles:
        return articles(lines(pieces) if kind == ".txt" else pieces)
    return pieces


def file_kind(path: Place) -> tuple[str, str]:
    """The suffixes that say how a file is read: (".jsonl", ".xz"), or (".txt", "") where it is not packed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    kind = suffixes[-1] if suffixes else ""
    kind = SAME.get(kind, kind)
    if kind not in READERS or (packing and kind in NOT_PACKED):
        raise DataError(f"{path}: of unknown kind; {READ} are read")
    return kind, packing


def can_be_cut(path: Place) -> bool:
    """Whether spans of the file can be read alone."""
    return file_kind(path) == (".jsonl", "") and (isinstance(path, Path) or path.ranges)


def refuse_unordered(path: Place) -> None:
    """Raise DataError where a file is read here and there, and its server gives it as a whole only."""
    kind, _ = file_kind(path)
    if kind in NOT_PACKED and isinstance(path, FarFile) and not path.ranges:
        raise DataError(f"{path}: the server gives no ranges of bytes, which {kind} needs; download it")


def digest_span(path: Place, span: ByteSpan) -> str:
    """The digest of all bytes that decide which documents a span has: to the end of its last line."""
    if isinstance(path, FarFile):
        return fingerprint(path.digest, span)
    start, stop = max(0, span[0] - 1), span[1]
    try:
        with path.open("rb") as file:
            file.seek(start)
            digest, data = hashlib.sha256(), b""
            while file.tell() < stop and (data := file.read(min(CHUNK, stop - file.tell()))):
                digest.update(data)
            digest.update(b"" if data.endswith(b"\n") else file.readline(MAX_LINE + 1))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({reason(error)})") from error
    return digest.hexdigest()


def _opened(path: Place, advance: Advance) -> io.RawIOBase:
    if isinstance(path, FarFile):
        return FarReader(path, advance, KEPT if file_kind(path)[0] in NOT_PACKED else 1)
    return _Counted(path, advance)


class _Counted(io.FileIO):
    """A file that reports how many of its bytes were read, before any unpacking."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self._advance(count)
        return count


def _unpacked(raw: io.RawIOBase, path: Place) -> BinaryIO:
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


def _read_text(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[Piece]:
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


def converted(encoding: str) -> str:
    """What makes UTF-8 of a file that is probably written in `encoding`."""
    return f"if it is {encoding}: iconv -f {encoding} -t utf-8 OLD > NEW"


def _decoded(decoder: io.IncrementalNewlineDecoder, data: bytes, name: str, line: int) -> str:
    """`data` as text; no data: what the decoder still holds. `line` is where the data starts."""
    try:
        text = decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        byte = f"0x{error.object[error.start]:02x}"
        raise DataError(f"{name}:{line}: not UTF-8 (byte {byte}); {converted('latin1')}") from error
    if "\0" in text:
        line += text[: text.index("\0")].count("\n")
        raise DataError(f"{name}:{line}: has a NUL byte, so this is no UTF-8 text; {converted('utf-16')}")
    return text


def _read_jsonl(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[Piece]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
        yield from _of_line(
            file, line if number > 1 else line.removeprefix(codecs.BOM_UTF8), wanted, f"{name}:{number}"
        )


def _read_span(raw: io.RawIOBase, path: Place, span: ByteSpan, wanted: Wanted) -> Iterator[Piece]:
    """The documents of the lines of a .jsonl file that begin in `span`."""
    (start, stop), where = span, _LineNumber(path)
    if start == 0:
        file = cast(BinaryIO, io.BufferedReader(raw, CHUNK))
    else:
        raw.seek(start - 1)
        file = cast(BinaryIO, io.BufferedReader(raw, CHUNK))
        _skip_line(file)
    while (at := file.tell()) < stop and (line := file.readline(MAX_LINE + 1)):
        where.at = at
        yield from _of_line(file, line if at else line.removeprefix(codecs.BOM_UTF8), wanted, where)


def _skip_line(file: BinaryIO) -> None:
    while (part := file.readline(CHUNK)) and not part.endswith(b"\n"):
        pass


class _LineNumber:
    """As text `file:line`, of the line that begins at byte `at`: lines are counted, each once, where one is bad.

    Of a file that is far away it is the byte, since counting would read all that lies before it.
    """

    def __init__(self, path: Place) -> None:
        self.at = 0
        self._path, self._counted, self._number = path, 0, 1

    def __str__(self) -> str:
        if isinstance(self._path, FarFile):
            return f"{self._path}:byte {self.at}"
        with self._path.open("rb") as file:
            file.seek(self._counted)
            while self._counted < self.at and (data := file.read(min(self.at - self._counted, CHUNK))):
                self._number += data.count(b"\n")
                self._counted += len(data)
        return f"{self._path}:{self._number}"


def _of_line(file: BinaryIO, line: bytes, wanted: Wanted, where: object) -> Iterator[Piece]:
    if len(line) > MAX_LINE:
        yield document(RowError(f"the line is longer than {MAX_LINE} bytes"), wanted, where)
        if not line.endswith(b"\n"):
            _skip_line(file)
    elif line and not line.isspace():
        yield document(_json(line.rstrip(b"\r\n")), wanted, where)


def _json(line: bytes) -> Any:
    """What a line holds, or the RowError that says why that cannot be read."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return RowError(f"not UTF-8 (byte 0x{line[error.start]:02x})")
    except json.JSONDecodeError as error:
        return RowError(f"not JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested brackets
        return RowError(f"not JSON that can be read ({type(error).__name__})")


def _documents_of(rows: Iterable[Row], wanted: Wanted) -> Iterator[Piece]:
    return (document(row, wanted, where) for where, row in rows)


def _read_parquet(file: BinaryIO, name: str, wanted: Wanted) -> Iterator[Piece]:
    import pyarrow as pa  # only these files need it
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER)
        columns = wanted.columns(table.schema_arrow.names, name)
        row = 0
        for batch in _parquet_batches(table, columns, name, file):
            for values in zip(*(batch.column(column) for column in columns), strict=True):
                row += 1
                yield document(values_of(columns, values), wanted, f"{name}:{row}")
    except (pa.ArrowException, pa.ArrowMemoryError) as error:
        raise DataError(f"{name}: not readable as parquet ({reason(error)})") from error


def _parquet_batches(table: Any, columns: Sequence[str], name: str, file: BinaryIO) -> Iterator[Any]:
    """As many rows at once as memory is sure to hold: none is larger than the page that it is in, or a dictionary's."""
    for number in range(table.num_row_groups):
        with contextlib.nullcontext(file) if is_url(name) else open(name, "rb") as headers:
            page = largest_page(headers, table.metadata.row_group(number), columns, name)
        rows = min(PARQUET_ROWS, max(1, MAX_LINE // max(page, 1)))
        yield from table.iter_batches(batch_size=rows, row_groups=[number], columns=columns)


Reader = Callable[[BinaryIO, str, Wanted], Iterator[Piece]]
READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".json": lambda file, name, wanted: _documents_of(json_rows(file, name), wanted),
    ".csv": lambda file, name, wanted: _documents_of(csv_rows(file, name, tabs=False), wanted),
    ".tsv": lambda file, name, wanted: _documents_of(csv_rows(file, name, tabs=True), wanted),
    ".parquet": _read_parquet,
    ".arrow": lambda file, name, wanted: _documents_of(arrow_rows(file, name, wanted), wanted),
}
SAME = {".md": ".txt", ".markdown": ".txt", ".ndjson": ".jsonl"}
"""Suffixes of files that are read as those of another."""
NOT_PACKED = (".parquet", ".arrow")
READ = ".txt, .md, .jsonl, .ndjson, .json, .csv, .tsv (also .gz, .xz, .zst of these), .parquet and .arrow"
"""For messages."""
