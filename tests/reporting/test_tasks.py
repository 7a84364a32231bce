"""What train.eval_tasks found, in a report and on the card."""

from __future__ import annotations

import json
from pathlib import Path

from est_cli.reporting.numbers import all_numbers
from est_cli.reporting.page import page
from est_cli.reporting.report import make_report
from tests.lab.made_runs import groups_in, make_run


def with_tasks(folder: Path) -> Path:
    make_run(folder)
    with (folder / "metrics.jsonl").open("a") as file:
        for step, acc in ((50, 0.25), (100, 0.625)):
            tasks = {"arc/acc": acc, "arc/acc_stderr": 0.111, "odd": "<b>", "nan": None}
            file.write(json.dumps({"event": "tasks", "step": step, "tokens": 1, "tasks": tasks}) + "\n")
    return folder


def test_the_report_has_all_evaluations_and_its_page_the_last(tmp_path: Path) -> None:
    with_tasks(tmp_path / "x")
    numbers = all_numbers("t", "now", list(groups_in(tmp_path).values()), [], [])
    assert [(row["step"], row["numbers"]["arc/acc"]) for row in numbers["tasks"]] == [(50, 0.25), (100, 0.625)]
    text = page(numbers, [], [])
    assert "<h2>Tasks</h2>" in text and "0.6250" in text and "0.2500" not in text and "0.1110" not in text
    assert "<b>" not in text.partition("<h2>Tasks</h2>")[2].partition("</table>")[0]


def test_a_report_without_tasks_says_nothing_of_them(tmp_path: Path) -> None:
    make_run(tmp_path / "x")
    numbers = all_numbers("t", "now", list(groups_in(tmp_path).values()), [], [])
    assert numbers["tasks"] == [] and "<h2>Tasks</h2>" not in page(numbers, [], [])


def test_a_whole_report(tmp_path: Path) -> None:
    report = make_report([with_tasks(tmp_path / "x")], tmp_path / "out", "t")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["tasks"] == report.numbers["tasks"]
    assert "<h2>Tasks</h2>" in report.page.read_text()
