"""Rows without text end the command, which names the setting that passes over them, or are passed over and told."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig, Source
from est_cli.config.data import OnBadRow, dataset_problems
from est_cli.data import load_corpus
from est_cli.data.text import pieces as pieces_module
from est_cli.data.text import readers
from est_cli.data.text.pieces import Piece, Wanted, quiet
from est_cli.data.text.readers import read_file
from est_cli.data.tokens.encode import BAD_PLACES
from tests.lab.corpora import documents, files, write_jsonl

WAY_OUT = "; dataset.on_bad_row=skip passes over such rows"
SKIP = Wanted(("text",), skip_bad_rows=True)

GOOD = b'{"text": "good"}'
JSON_ROWS = {
    "no object": (b"3", "a row must be a JSON object, this one is of type int"),
    "no field": (b'{"body": "x"}', "no field text (dataset.text_fields); the fields here are: 'body'"),
    "null": (b'{"text": null}', "the text must be a string, it is of type NoneType"),
    "a chat": (b'{"text": []}', "the text must be a string, it is of type list; of chats make texts first "),
    "no UTF-8": (b'{"text": "\xff"}', "not UTF-8 (byte 0xff)"),
    "half a surrogate": (b'{"text": "\\ud800"}', "the text has half a surrogate pair"),
}
LINES = JSON_ROWS | {
    "no JSON": (b'{"text": ', "not JSON (Expecting value, column 10)"),
    "a long number": (b'{"text": %s}' % (b"9" * 5000), "not JSON that can be read (ValueError)"),
    "nested": (b"[" * 100_000, "not JSON that can be read (RecursionError)"),
    "a long line": (b'{"text": "%s"}' % (b"x" * 200_000), "the line is longer than 150000 bytes"),
}


def read(path: Path, wanted: Wanted = SKIP, span: tuple[int, int] | None = None) -> list[Piece]:
    return list(read_file(path, wanted, quiet, span))


def check(path: Path, row: int, why: str) -> None:
    """Of three rows the one in the middle is bad."""
    good = Piece("good", ends=True)
    first, bad, last = read(path)
    assert first == last == good
    assert bad.is_left_out
    assert bad.bad.startswith(f"{path}:{row}: {why}")
    with pytest.raises(DataError) as error:
        read(path, Wanted(("text",)))
    assert type(error.value) is DataError  # its kind has a name that other processes know
    assert str(error.value) == bad.bad + WAY_OUT
    with pytest.raises(DataError) as error:
        read(path, Wanted(("text",), key="eval.text_fields"))
    assert str(error.value).startswith(f"{path}:{row}: ")
    assert "dataset." not in str(error.value)


@pytest.mark.parametrize("kind", LINES)
def test_lines(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 150_000)
    row, why = LINES[kind]
    content = b"\n".join([GOOD, row, GOOD]) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(content)
    check(tmp_path / "a.jsonl", 2, why)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    check(tmp_path / "a.jsonl.gz", 2, why)


@pytest.mark.parametrize("kind", JSON_ROWS)
def test_elements_of_json(tmp_path: Path, kind: str) -> None:
    row, why = JSON_ROWS[kind]
    (tmp_path / "a.json").write_bytes(b"[" + b", ".join([GOOD, row, GOOD]) + b"]")
    check(tmp_path / "a.json", 2, why)


def test_a_text_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_module, "MAX_LINE", 1000)
    write_jsonl(tmp_path / "a.jsonl", ["good", "x" * 1001, "good"])
    check(tmp_path / "a.jsonl", 2, "the text is longer than 1000 bytes")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"2", "the row has 1 fields, the first line names 2"),
        (b"2,x,y", "the row has 3 fields, the first line names 2"),
        (b"2,\xe9", "not UTF-8 (byte 0xe9)"),
    ],
)
def test_rows_of_csv(tmp_path: Path, row: bytes, why: str) -> None:
    lines = b"\n".join([b"id,text", b"1,good", row, b"3,good"])
    (tmp_path / "a.csv").write_bytes(lines)
    check(tmp_path / "a.csv", 3, why)
    (tmp_path / "a.tsv").write_bytes(lines.replace(b",", b"\t"))
    check(tmp_path / "a.tsv", 3, why)


@pytest.mark.parametrize(("value", "why"), [(None, "the text must be a string"), (b"\xff", "the text is not UTF-8")])
def test_rows_of_arrow_and_parquet(tmp_path: Path, value: bytes | None, why: str) -> None:
    values = pa.array([b"good", value, b"good"]).view(pa.string())
    feather.write_feather(pa.table({"text": values}), tmp_path / "a.arrow", compression="uncompressed")
    check(tmp_path / "a.arrow", 2, why)
    parquet.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", 2, why)


def test_what_is_wrong_with_the_file_stays_an_error(tmp_path: Path) -> None:
    """Where nobody knows where the next row begins, or no row could be good."""
    wrong = {"a.json": b'[{"text": "a"}, {"text": ]', "a.csv": b'id,text\n1,"x"y\n', "b.csv": b"id,\xfftext\n1,x\n"}
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            read(tmp_path / name)
        assert "on_bad_row" not in str(error.value)
    parquet.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no field text"):
        read(tmp_path / "a.parquet")


def test_lines_are_numbered_in_any_span(tmp_path: Path) -> None:
    lines = [GOOD + b" " * number**2 if number % 3 else b"bad" for number in range(1, 31)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    size = path.stat().st_size
    for cut in range(0, size, 131):
        found = [*read(path, span=(0, cut)), *read(path, span=(cut, size))]
        bad = [piece.bad.split(": ")[0] for piece in found if piece.bad]
        assert bad == [f"{path}:{number}" for number in range(3, 31, 3)]
        assert len(found) == 30


def test_bad_lines_of_wikitext_end_no_article(tmp_path: Path) -> None:
    rows = ["", " = One = ", "", "text", None, "more", "", " = Two = ", "", "end"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = read(tmp_path / "a.jsonl", Wanted(("text",), articles=True, skip_bad_rows=True))
    assert [piece.text for piece in found if not piece.bad] == [" = One = \n\ntext\nmore\n", " = Two = \n\nend\n"]
    assert [piece.bad.split(": ")[0] for piece in found if piece.bad] == [f"{tmp_path / 'a.jsonl'}:5"]


def test_a_corpus_tells_what_it_passes_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    texts = documents(40)
    write_jsonl(tmp_path / "clean.jsonl", texts)
    bad = "".join(f'{{"text": {number}}}\n' for number in range(25))
    (tmp_path / "a.jsonl").write_text(bad + (tmp_path / "clean.jsonl").read_text())

    def load(name: str, **settings: object) -> str:
        return load_corpus(files(tmp_path / name, **settings), "bpe", 300, tmp_path / "cache").data_hash

    with pytest.raises(DataError, match=rf"a\.jsonl:1: the text must be a string.*int{WAY_OUT}$"):
        load("a.jsonl")
    skipped = load("a.jsonl", on_bad_row=OnBadRow.skip)
    assert "0 blank ones and 25 rows without text (dataset.on_bad_row=skip) left out" in caplog.text
    assert "25 rows without text are passed over, of which these are the first 20:" in caplog.text
    assert [f"a.jsonl:{number}: the text must be" in caplog.text for number in (1, 20, 21)] == [True, True, False]
    caplog.clear()
    assert load("a.jsonl", on_bad_row=OnBadRow.skip) == skipped
    assert caplog.text.count("the text must be a string") == BAD_PLACES  # kept with the tokens
    assert load("clean.jsonl") == skipped
    (tmp_path / "b.jsonl").write_text(bad)
    with pytest.raises(
        DataError, match=r"no text in it, only 0 blank .* 25 rows without .*; the first: .*b\.jsonl:1: "
    ):
        load("b.jsonl", on_bad_row=OnBadRow.skip)


def test_the_rule_is_known_by_where_it_is_set() -> None:
    assert "skip_bad_rows" not in Wanted(("text",)).settings
    assert SKIP.settings["skip_bad_rows"]


def test_it_is_refused_where_there_are_no_rows(tmp_path: Path) -> None:
    for source in Source:
        config = DatasetConfig(source=source, files=["a"], hub_ids=["a"], on_bad_row=OnBadRow.skip)
        told = any(problem.startswith("dataset.on_bad_row") for problem in dataset_problems(config, "gpt2"))
        assert told is (source in (Source.stdlib, Source.tokens))
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ConfigError, match=r"^dataset\.on_bad_row: all of dataset\.files are \.txt"):
        load_corpus(files(tmp_path / "a.txt", on_bad_row=OnBadRow.skip), "bpe", 300, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_folder_of_the_hubs_layout(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set").mkdir()
    table = pa.table({"text": [*documents(40), None]})
    if kind == "parquet":
        parquet.write_table(table, tmp_path / "set" / "train.parquet")
    else:
        rows = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
        (tmp_path / "set" / "train.jsonl").write_text(rows)
    config = DatasetConfig(source=Source.hub, hub_ids=[str(tmp_path / "set")])
    with pytest.raises(DataError, match=rf":41: the text must be.*{WAY_OUT}$"):
        load_corpus(config, "bpe", 300, tmp_path / "cache")
    config.on_bad_row = OnBadRow.skip
    load_corpus(config, "bpe", 300, tmp_path / "cache")
    assert ": 1 rows without text are passed over:\n" in caplog.text
