"""The report of the fault suite counts what the tests say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.faults.report import ROWS, Report


def told(outcome: str, when: str = "call", **properties: Any) -> Any:
    longrepr = ("file", 1, "Skipped: no strace") if outcome == "skipped" else None
    return SimpleNamespace(
        outcome=outcome, when=when, skipped=outcome == "skipped", longrepr=longrepr, duration=1.5,
        user_properties=[("row", "A2"), *properties.items()],
    )  # fmt: skip


def test_a_row_shows_its_tests_failures_and_counts() -> None:
    report = Report()
    for one in (
        *(told("passed"), told("passed", "teardown", kills=2, inputs=1000, lost=2)),
        *(told("failed"), told("passed", "teardown", kills=3, lost=4)),
        *(told("skipped", "setup"), told("passed", "teardown")),
    ):
        report.pytest_runtest_logreport(one)
    (line,) = (line for line in report.page() if line.startswith("| A2 "))
    assert line.split(" | ")[2:] == ["2", "1", "5", "1,000", "9", "1 x no strace |"]
    assert "A2 4 of 5, A4 0 of 2" in report.page()[-2]
    assert "5 kills, 1,000 damaged or malformed inputs, 1 failures" in report.page()[-1]


def test_the_document_explains_each_row() -> None:
    text = (Path(__file__).parents[2] / "docs" / "faults.md").read_text()
    table = [line for line in text.partition("## What the rows do")[2].splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[1:]] == list(ROWS)
