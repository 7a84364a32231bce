import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from est_cli.data.text.pieces import Wanted, document, quiet
from est_cli.data.text.readers import read_file

ROW = {"text": "t", "n": 3, "yes": True, "no": None, "meta": {"set": "Github", "deep": {"er": "x"}}, "x=y": "z"}


@pytest.mark.parametrize(
    ("entry", "excluded"),
    [
        ("meta.set=Github", True), ("meta.set=github", False), ("meta.deep.er=x", True), ("meta.deep=x", False),
        ("n=3", True), ("n=3.0", False), ("yes=true", True), ("no=null", True), ("other=null", False),
        ("n.x=3", False), ("text=t", True), ("meta.set=", False),
    ],
)  # fmt: skip
def test_rows_with_the_value_are_excluded(entry: str, excluded: bool) -> None:
    piece = document(ROW, Wanted(("text",), ("other=1", entry)), "here")
    assert (piece.excluded, piece.text) == (excluded, "" if excluded else "t")


def test_an_excluded_row_needs_no_text() -> None:
    assert document({"lang": "de"}, Wanted(("text",), ("lang=de",)), "here").excluded


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_rows_of_files_are_excluded(tmp_path: Path, name: str) -> None:
    rows = [{"id": 0, "text": "a", "meta": {"lang": "de"}}, {"id": 1, "text": "b", "meta": {"lang": "en"}}]
    if name == "a.parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pieces = list(read_file(tmp_path / name, Wanted(("text",), ("meta.lang=de", "nothing.like=this")), quiet))
    assert [(piece.text, piece.excluded) for piece in pieces] == [("", True), ("b", False)]
