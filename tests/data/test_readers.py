import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import DataError
from est_cli.data.text import readers
from est_cli.data.text.pieces import Wanted, quiet
from est_cli.data.text.readers import read_file

WANTED = Wanted(("text", "content"))


def texts(path: Path) -> list[str]:
    """The documents of a file, their pieces joined."""
    found, held = [], ""
    for piece in read_file(path, WANTED, quiet):
        held += piece.text
        if piece.ends:
            found.append(held)
            held = ""
    assert held == "", "the last document has no end"
    return found


def packed(path: Path, data: bytes) -> Path:
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(data))
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz", "a.txt.zst"])
def test_txt_is_one_document(tmp_path: Path, name: str) -> None:
    assert texts(packed(tmp_path / name, "first\n\nsecond 東京".encode())) == ["first\n\nsecond 東京"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst"])
def test_jsonl_is_a_document_a_line(tmp_path: Path, name: str) -> None:
    lines = b'{"text": "a\\r\\nb", "content": "no"}\n\n{"content": "c"}'
    assert texts(packed(tmp_path / name, lines)) == ["a\r\nb", "c"]


def test_parquet_is_a_document_a_row(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": [1, 2], "content": ["a", "b"]}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["a", "b"]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 1000])
def test_pieces_of_any_size_give_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Chunks end inside characters, between \\r and \\n, and in the byte order mark."""
    monkeypatch.setattr(readers, "CHUNK", chunk)
    text = "früh\r\n東京 and 🦊 on a line without end\n\n\r\nend\r"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert texts(tmp_path / "a.txt") == ["früh\n東京 and 🦊 on a line without end\n\n\nend\n"]


def test_long_txt_is_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a line of text\n" * 100_000)
    sizes = [len(piece.text) for piece in read_file(tmp_path / "a.txt", WANTED, quiet)]
    assert max(sizes) <= readers.CHUNK + 15
    assert sum(sizes) == 1_500_000


def test_byte_order_mark_and_crlf_of_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert texts(tmp_path / "a.jsonl") == ["a", "b"]


def test_empty_file_is_one_blank_document_or_none(tmp_path: Path) -> None:
    assert texts(packed(tmp_path / "a.txt", b"")) == [""]
    assert texts(packed(tmp_path / "a.jsonl", b"")) == []


BAD_TEXT = {
    "lone byte": (b"one\ntwo\nth\xffree", ":3: not UTF-8 (byte 0xff)"),
    "cut off": (b"one\nf\xc3", ":2: not UTF-8 (byte 0xc3)"),
    "latin-1": ("one\nfrüh\n".encode("latin-1"), ":2: not UTF-8 (byte 0xfc)"),
    "utf-16": ("one\ntwo".encode("utf-16"), ":1: not UTF-8 (byte 0xff)"),
    "utf-16 without mark": ("one\ntwo".encode("utf-16-le"), ":1: has a NUL byte"),
    "nul": (b"one\r\ntwo\0", ":2: has a NUL byte"),
}


@pytest.mark.parametrize("chunk", [2, 1000])
@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_txt_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, chunk: int
) -> None:
    monkeypatch.setattr(readers, "CHUNK", chunk)
    data, message = BAD_TEXT[case]
    (tmp_path / "a.txt").write_bytes(data)
    refused(tmp_path / "a.txt", message)


BAD_LINES = {
    "not json": (b"{text}", "not JSON (Expecting property name"),
    "cut off": (b'{"text": "a', "not JSON (Unterminated string"),
    "list": (b'["a"]', "a row must be a JSON object, this one is of type list"),
    "no field": (b'{"body": "a"}', "no field text or content (dataset.text_fields); the fields here are: 'body'"),
    "null": (b'{"text": null}', "the text must be a string, it is of type NoneType"),
    "number": (b'{"text": 3}', "the text must be a string, it is of type int"),
    "surrogate": (b'{"text": "\\ud800"}', "the text has half a surrogate pair"),
    "not utf-8": (b'{"text": "\xff"}', "not UTF-8 (byte 0xff)"),
    "nul": (b'{"text": "a\0"}', "not JSON (Invalid control character"),
    "nested": (b"[" * 100_000, "not JSON that can be read (RecursionError)"),
    "digits": (b'{"text": ' + b"1" * 5000 + b"}", "not JSON that can be read (ValueError)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_jsonl_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    line, message = BAD_LINES[case]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    refused(tmp_path / "a.jsonl", f":3: {message}")


def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "longer than that"}\n')
    refused(tmp_path / "a.jsonl", ":2: the line is longer than 20 bytes")


BAD_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "no field": ({"body": ["a"]}, ": no field text or content (dataset.text_fields); the fields here are: 'body'"),
    "null": ({"text": ["a", None]}, ":2: the text must be a string"),
    "numbers": ({"text": [1, 2]}, ":1: the text must be a string, it is of type int"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_bad_parquet_is_refused_with_its_row(tmp_path: Path, case: str) -> None:
    columns, message = BAD_COLUMNS[case]
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", message)


def test_parquet_with_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"fine", b"\xff"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", ":2: the text is not UTF-8")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.zst", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_file_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    text = json.dumps(list(range(5000)))
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"text": [text]}), path)
    else:
        packed(path, text.encode())
    path.write_bytes(path.read_bytes()[:-40] if damage == "cut" else b"this is no such file at all")
    refused(path, "")


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.parquet.gz", "a.arrow.zst", "a.gz", "a.txt.bz2"])
def test_unknown_kind_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    refused(tmp_path / name, ": of unknown kind")


def test_progress_adds_up_to_the_size_of_the_file(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.jsonl.xz", b'{"text": "some text"}\n' * 1000)
    read: list[int] = []
    list(read_file(path, WANTED, read.append))
    assert sum(read) == path.stat().st_size


def refused(path: Path, message: str) -> None:
    """One line that starts with the file and says `message`."""
    with pytest.raises(DataError) as caught:
        texts(path)
    line = str(caught.value)
    assert line.startswith(f"{path}{message}")
    assert "\n" not in line
