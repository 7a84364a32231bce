"""Files of rows that are no .jsonl, against what their own libraries write."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pytest

from est_cli.common.errors import DataError
from est_cli.data.text import arrow_batches, pieces, readers, tables
from est_cli.data.text.pieces import Wanted, quiet
from est_cli.data.text.readers import file_kind, read_file
from est_cli.data.text.sources import expand

TEXTS = ['a "quoted", text', "two\nlines\ttabbed", "東京 🦊", ""]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


def texts(path: Path, *exclude: str) -> list[str]:
    pieces = list(read_file(path, Wanted(("text",), exclude), quiet))
    assert all(piece.ends for piece in pieces)
    return [piece.text for piece in pieces if not piece.excluded]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        texts(path)
    return str(error.value).removeprefix(f"{path}:")


JSON = {
    "array": json.dumps(ROWS),
    "indented": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "lines": "\n".join(map(json.dumps, ROWS)) + "\n\n",
    "objects over lines": "\n".join(json.dumps(row, indent=1) for row in ROWS),
}


@pytest.mark.parametrize("chunk", [1, 3, 100_000])
@pytest.mark.parametrize("form", JSON)
def test_json(tmp_path: Path, form: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an array and as objects, with a byte order mark, cut anywhere while it is read."""
    monkeypatch.setattr(tables, "CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(JSON[form], "utf-8-sig")
    assert texts(path) == TEXTS
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(JSON[form].encode()))
    assert texts(packed) == TEXTS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'[{"text": "a"}, {"text": }]', "2: not JSON"),
        (b'[{"text": "a"} {"text": "b"}]', "1: not JSON (no comma"),
        (b'[{"text": "a"}', "1: not JSON (the array is not closed)"),
        (b'[{"text": "a"}] 3', "1: not JSON (there is more behind"),
        (b'{"text": "a"}{"text": "b', "2: not JSON"),
        (b'[{"text": "a"}, 3]', "2: a row must be a JSON object, this one is of type int"),
        (b'{"text": "a"}\n{"text": "\xff"}', "2: not UTF-8 (byte 0xff)"),
        (b'{"text": {"0": "a"}}', "1: the text must be a string, it is of type dict"),
        (b"[" * 100_000, "1: not JSON"),
    ],
    ids=str,
)
def test_json_that_is_wrong(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert refusal(path).startswith(told)


def test_a_row_of_any_length_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    (tmp_path / "a.json").write_bytes(b'[{"text": "' + b"a" * 1_000_000)
    assert "longer than 1000 bytes" in refusal(tmp_path / "a.json")
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,"' + b"a\n" * 1_000_000)
    assert "longer than 1000 bytes" in refusal(tmp_path / "a.csv")
    csv.field_size_limit(pieces.MAX_LINE)


def test_csv_as_the_csv_module_writes_it(tmp_path: Path) -> None:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["id", "text"])
    writer.writeheader()
    writer.writerows(ROWS)
    for name in ("a.csv", "A.CSV"):
        (tmp_path / name).write_text(stream.getvalue(), "utf-8-sig", newline="")
        assert texts(tmp_path / name) == TEXTS
    assert texts(tmp_path / "a.csv", "id=1") == [TEXTS[0], *TEXTS[2:]]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n0\t"only one\n1\t5" wide\n', "utf-8")
    assert texts(path) == ['"only one', '5" wide']


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"id,text\n1,a,b\n", "2: the row has 3 fields, the first line names 2"),
        (b'id,text\n1,"a\n2,b\n', "3: not readable as .csv"),
        (b"id,text\n1,\xff\n", "2: not UTF-8 (byte 0xff)"),
        (b"id,name\n1,a\n", "2: no field text"),
    ],
    ids=str,
)
def test_csv_that_is_wrong(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refusal(path).startswith(told)


@pytest.mark.parametrize("form", ["stream", "file", "compressed"])
def test_arrow(tmp_path: Path, form: str) -> None:
    table, path = pa.Table.from_pylist(ROWS), tmp_path / "a.arrow"
    if form == "stream":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    else:
        feather.write_feather(table, str(path), compression="zstd" if form == "compressed" else "uncompressed")
    assert texts(path) == TEXTS
    assert texts(path, "id=0") == TEXTS[1:]
    path.write_bytes(path.read_bytes()[:-200])
    assert "not readable as .arrow" in refusal(path) or texts(path) != TEXTS


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("form", ["stream", "file"])
def test_arrow_that_becomes_too_large_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, codec: str
) -> None:
    """Blanks, which are packed into little; dictionaries count, and what is not packed does not."""
    monkeypatch.setattr(arrow_batches, "MAX_BATCH", 1_000_000)
    text = "a" + " " * 999_000
    tables = {
        "few": (pa.table({"text": [text]}), codec),
        "many": (pa.table({"text": [text, text]}), codec),
        "dictionary": (pa.table({"text": pa.array([text, text + "b"]).dictionary_encode()}), codec),
        "as it is": (pa.table({"text": [text, text]}), None),
    }
    for name, (table, packed) in tables.items():
        path = tmp_path / f"{name}.arrow"
        options = pa.ipc.IpcWriteOptions(compression=packed)
        make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with make(str(path), table.schema, options=options) as writer:
            writer.write_table(table)
        if name in ("many", "dictionary"):
            taken = pa.total_allocated_bytes()
            assert re.search(r"has a batch of [\d,]+ bytes when unpacked, more than 1,000,000", refusal(path)), name
            assert pa.total_allocated_bytes() - taken < 500_000
        else:
            assert texts(path) == table["text"].to_pylist(), name


def test_arrow_with_a_broken_header(tmp_path: Path) -> None:
    """Whatever byte of it is wrong: refused, or read; pyarrow alone ends the process for some of them."""
    path, table = tmp_path / "a.arrow", pa.table({"text": ["one", "two " * 50]})
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    for at in sorted({*range(0, len(data), 7), *range(320, 345)}):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        with contextlib.suppress(DataError):
            texts(path)


def test_arrow_that_is_not_utf8(tmp_path: Path) -> None:
    """An error of its row."""
    path, column = tmp_path / "a.arrow", pa.array([b"one", b"t\xffwo"]).view(pa.string())
    with pa.ipc.new_stream(str(path), pa.schema({"text": pa.string()})) as writer:
        writer.write_batch(pa.record_batch({"text": column}))
    assert refusal(path) == "2: the text is not UTF-8; dataset.on_bad_row=skip passes over such rows"


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)
    data.select([2, 0, 1]).save_to_disk(tmp_path / "saved", num_shards=2)
    files = expand([str(tmp_path / "saved")], "dataset.files")
    assert [text for path in files for text in texts(path)] == [TEXTS[2], TEXTS[0], TEXTS[1]]
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"several splits; name the folder of one \(found here: test, train\)"):
        expand([str(tmp_path / "splits")], "dataset.files")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("A.TXT", (".txt", "")),
        ("a.MD", (".txt", "")),
        ("a.ndjson", (".jsonl", "")),
        ("a.Jsonl.GZ", (".jsonl", ".gz")),
        ("a.b.csv.zst", (".csv", ".zst")),
    ],
)
def test_kinds(name: str, kind: tuple[str, str]) -> None:
    assert file_kind(Path(name)) == kind


@pytest.mark.parametrize("row", [{"messages": [{"role": "user", "content": "a"}]}, {"text": [{"role": "user"}]}])
def test_chats_are_refused_with_the_way_out(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert "apply_chat_template" in refusal(tmp_path / "a.jsonl")


def test_every_kind_that_messages_name_is_read() -> None:
    for suffix in (*readers.READERS, *readers.SAME):
        assert suffix == ".markdown" or suffix in readers.READ
