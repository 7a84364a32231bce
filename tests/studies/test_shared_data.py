"""The folder of texts that EST_DATA names, and what is said where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shared_data import shared

ROOT = Path(__file__).parents[2]


def test_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    monkeypatch.setenv("EST_DATA", str(tmp_path))
    assert shared("corpus") == tmp_path / "corpus"


@pytest.mark.parametrize("given", [None, "", "DIR"])
def test_one_line_tells_what_is_missing(
    given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EST_DATA", raising=False)
    if given is not None:
        monkeypatch.setenv("EST_DATA", given)
    with pytest.raises(SystemExit) as ended:
        shared("corpus")
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1
    assert ("there is no folder DIR/corpus" if given else "EST_DATA is not set") in said
    page, section = re.findall(r"(docs/\w+\.md) \((.+)\)", said)[0]
    assert f"\n## {section}\n" in (ROOT / page).read_text()


def test_no_script_reads_it_by_itself() -> None:
    readers = [
        path.name
        for folder in ("benchmarks", "studies")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"environ.*EST_DATA\b", path.read_text())
    ]
    assert readers == ["shared_data.py"]
