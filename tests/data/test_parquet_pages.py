"""Sizes of parquet pages, against pyarrow's own sums, and what is refused before memory is taken."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import DataError
from est_cli.data.text import parquet_pages, pieces, readers
from est_cli.data.text.parquet_pages import _header, _page_sizes, largest_page
from est_cli.data.text.pieces import Wanted, quiet
from est_cli.data.text.readers import read_file

WANTED = Wanted(["text"])


def write(path: Path, values: list[Any], **options: Any) -> Path:
    parquet.write_table(pa.table({"text": values, "id": list(range(len(values)))}), path, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "data_page_size": 2000},
        {"data_page_version": "2.0", "data_page_size": 3000, "compression": "zstd"},
        {"write_page_checksum": True, "write_statistics": False, "compression": "none", "row_group_size": 700},
        {"write_page_index": True, "data_page_size": 500, "compression": "gzip"},
    ],
)
def test_pages_fill_their_chunk(tmp_path: Path, options: dict[str, Any]) -> None:
    draw = random.Random(0)
    values = ["".join(draw.choices("abcdef ", k=draw.randrange(200))) for _ in range(3000)]
    path = write(tmp_path / "a.parquet", values, **options)
    table = parquet.ParquetFile(path)
    with path.open("rb") as file:
        for number in range(table.num_row_groups):
            for index in range(2):
                chunk = table.metadata.row_group(number).column(index)
                at = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
                sizes, headers, end = [], 0, at + chunk.total_compressed_size
                while at < end:
                    file.seek(at)
                    fields, length = _header(file.read(4096))
                    sizes.append(fields[2])
                    headers, at = headers + length, at + length + fields[3]
                assert at == end
                assert sum(sizes) + headers == chunk.total_uncompressed_size
                assert list(_page_sizes(file, chunk, "a")) == sizes


def test_a_small_file_with_large_rows_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One value of a dictionary in every row: a batch of them would be many times what the file says."""
    value = "x y z " * 20_000
    path = write(tmp_path / "bomb.parquet", [value] * 64, compression="zstd")
    assert path.stat().st_size < 5000
    monkeypatch.setattr(readers, "MAX_LINE", 3 * len(value))
    with path.open("rb") as file:
        page = largest_page(file, parquet.ParquetFile(path).metadata.row_group(0), ["text"], "bomb")
    assert len(value) <= page < len(value) + 100
    with path.open("rb") as file:
        batches = list(readers._parquet_batches(parquet.ParquetFile(path), ["text"], str(path), file))
    assert {batch.num_rows for batch in batches} == {2} and sum(batch.nbytes for batch in batches) > 60 * len(value)
    assert [piece.text for piece in read_file(path, WANTED, quiet)] == [value] * 64


def test_a_page_that_is_too_large_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", ["y" * 10_000] * 8, use_dictionary=False)
    monkeypatch.setattr(parquet_pages, "MAX_PAGE", 50_000)
    with pytest.raises(DataError, match=rf"^{path}: has a page of 80,0\d\d bytes, more than 50,000; write it"):
        list(read_file(path, WANTED, quiet))
    narrow = write(tmp_path / "b.parquet", ["y" * 10_000] * 8, use_dictionary=False, row_group_size=4)
    assert len(list(read_file(narrow, WANTED, quiet))) == 8


def test_a_row_has_the_limit_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_LINE", 100)
    path = write(tmp_path / "a.parquet", ["short", "ä" * 51])
    with pytest.raises(DataError, match=rf"^{path}:2: the text is longer than 100 bytes; "):
        list(read_file(path, WANTED, quiet))


def test_headers_that_no_writer_made(tmp_path: Path) -> None:
    """Whatever stands there is a DataError, and is found out at once."""
    path = write(tmp_path / "a.parquet", ["abc"] * 50)
    chunk = parquet.ParquetFile(path).metadata.row_group(0).column(0)
    draw = random.Random(0)
    refused = 0
    for _ in range(3000):
        data = bytearray(path.read_bytes())
        for at in range(4, 40):
            if draw.random() < 0.3:
                data[at] = draw.randrange(256)
        try:
            list(_page_sizes(io.BytesIO(bytes(data)), chunk, "a"))
        except DataError:
            refused += 1
    assert refused > 1000
