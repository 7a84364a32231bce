import gzip
import json
from pathlib import Path

import pytest

from est_cli.common.errors import DataError
from est_cli.data.text import units as module
from est_cli.data.text.pieces import Unit, Wanted, quiet
from est_cli.data.text.units import file_units, read_units
from est_cli.storage.digest import digest_files
from tests.lab.corpora import documents, write_jsonl

WANTED = Wanted(("text",))


def units_of(*paths: Path, wanted: Wanted = WANTED) -> tuple[Unit, ...]:
    return file_units(paths, digest_files(paths), wanted)


def texts(units: tuple[Unit, ...]) -> list[str]:
    return [piece.text for piece in read_units(units, quiet)]


@pytest.mark.parametrize("size", [1, 7, 40, 100, 333, 1000, 5000, 10**6])
def test_a_cut_file_is_read_whole_wherever_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "UNIT_BYTES", size)
    lines = [json.dumps({"text": text}) for text in ["", "x" * 700, *documents(20, words=3)]]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode())
    expected = ["", "x" * 700, *documents(20, words=3)]
    units = units_of(tmp_path / "a.jsonl")
    assert texts(units) == expected
    assert sum(unit.size for unit in units) == (tmp_path / "a.jsonl").stat().st_size
    assert (len(units) > 1) == (size < 2000)


def test_small_files_are_grouped_and_large_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNIT_BYTES", 100)
    sizes = [30, 40, 30, 1, 250, 99]
    paths = [tmp_path / f"{number}.txt" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_text("x" * size)
    units = units_of(*paths)
    assert [unit.size for unit in units] == [100, 1, 250, 99]
    assert [len(unit.arguments["parts"]) for unit in units] == [3, 1, 1, 1]
    (tmp_path / "6.txt").write_text("y" * 50)
    grown = units_of(*paths, tmp_path / "6.txt")
    assert grown[:4] == units, "what was there already is known again"


def test_packed_files_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNIT_BYTES", 10)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(write_jsonl(tmp_path / "b.jsonl", documents(9)).read_bytes()))
    units = units_of(tmp_path / "a.jsonl.gz")
    assert len(units) == 1 and texts(units) == documents(9)


def test_there_are_never_too_many_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNIT_BYTES", 10)
    monkeypatch.setattr(module, "MAX_UNITS", 12)
    units = units_of(write_jsonl(tmp_path / "a.jsonl", documents(40)))
    assert 6 < len(units) <= 12 and texts(units) == documents(40)


def test_fingerprint_of_a_unit_follows_settings_and_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", documents(4))
    found = [
        units_of(path),
        units_of(path, wanted=Wanted(("text", "b"))),
        units_of(path, wanted=Wanted(("text",), ["a=b"])),
    ]
    monkeypatch.setattr(module, "UNIT_BYTES", 700)
    found.append(units_of(path))
    prints = [unit.fingerprint for units in found for unit in units]
    assert len(prints) == 3 + len(found[3]) == len(set(prints))


@pytest.mark.parametrize("size", [50, 300, 10**6])
def test_bad_line_of_a_span_is_named_as_in_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(module, "UNIT_BYTES", size)
    path = write_jsonl(tmp_path / "a.jsonl", documents(20))
    path.write_text(path.read_text().replace('"text": "document 13', '"body": "document 13'))
    with pytest.raises(DataError, match=rf"^{path}:14: no field text"):
        texts(units_of(path))
