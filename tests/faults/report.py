"""The table of docs/faults.md: what was done to the product in each row of the matrix, and what came of it."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from est_cli.distributed.hardware import cpu_name
from est_cli.storage.versions import git_commit, versions

ROWS = {
    "A1": "crash at every system call of save and retention",
    "A2": "SIGKILL at random moments of a whole run",
    "A3": "SIGKILL at chosen points: transitions, accumulation, save, evaluation, export, load",
    "A4": "chains of kills across epochs",
    "A5": "SIGKILL of the real commands",
    "A6": "est-eval, est-analyze, est-report killed",
    "A7": "SIGKILL while the text is tokenised ahead",
    "A8": "killed while a run is made longer or begins from another",
    "A9": "killed while a run goes back from a spike",
    "B1": "resumed at each step, without a fault",
    "B2": "settings that must not change what is trained",
    "B3": "the same step cut into micro-batches and processes",
    "B4": "planted bugs: the suite must turn red",
    "C1": "two processes: killed, stopped, failing",
    "C2": "continued with another number of processes",
    "C3": "the same subnetwork on every rank",
    "D1": "storage errors while writing",
    "D2": "storage errors while reading, loader processes lost",
    "E1": "damaged checkpoints",
    "E2": "hostile checkpoints",
    "F1": "malformed configuration",
    "F2": "bad text",
    "F3": "tokenizer and model that do not fit",
    "F4": "bad GLUE files",
    "F5": "caches: killed builders, races, damage",
    "G": "signals in every phase",
    "H": "numerics",
    "I": "W&B outages",
    "J": "one owner of a run folder",
    "K": "soak",
    "S": "security: secrets, code in data, names as paths",
    "U": "checkpoints of earlier versions",
}
"""By the name that a test's mark `row` gives."""
SAVED_EVERY = {"A2": 5, "A4": 2, "A5": 5}
"""Steps between two checkpoints of the runs that are killed in these rows."""


@dataclass
class Row:
    outcomes: Counter[str] = field(default_factory=Counter)
    """Tests by outcome: passed, failed, skipped."""
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    lost: int = 0
    """Steps that a single kill has undone, at most."""
    not_run: list[str] = field(default_factory=list)
    """Why tests were skipped."""

    def add(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.outcome] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self.not_run.append(str(report.longrepr[2]).removeprefix("Skipped: "))
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name in ("kills", "inputs"):
                    self.counts[name] += int(str(value))
                elif name == "lost":
                    self.lost = max(self.lost, int(str(value)))


class Report:
    """A pytest plugin that writes the table to the file that EST_FAULT_REPORT names."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, Row] = defaultdict(Row)
        self.begun = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = dict(report.user_properties).get("row")
        if name is not None:
            self.rows[str(name)].add(report)

    def pytest_sessionfinish(self) -> None:
        path = os.environ.get("EST_FAULT_REPORT")
        if path and self.rows and "PYTEST_XDIST_WORKER" not in os.environ:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text("\n".join(self.page()) + "\n")

    def page(self) -> list[str]:
        total = sum((row.counts for row in self.rows.values()), Counter[str]())
        failed = sum(row.outcomes["failed"] for row in self.rows.values())
        minutes = (time.monotonic() - self.begun) / 60
        told = ", ".join(f"{name} {version}" for name, version in versions().items())
        lost = ", ".join(f"{name} {self.rows[name].lost} of {every}" for name, every in SAVED_EVERY.items())
        return [
            "| row | what | tests | failed | kills | inputs | s | not run |",
            "|---|---|---:|---:|---:|---:|---:|---|",
            *(self._line(name) for name in ROWS),
            "",
            f"Steps undone by a kill, at most, of those between two checkpoints: {lost}.",
            f"{total['kills']} kills, {total['inputs']:,} damaged or malformed inputs, {failed} failures, "
            f"{minutes:.1f} minutes. Commit {git_commit() or 'unknown'}, {cpu_name()}, {os.cpu_count()} cores, {told}.",
        ]

    def _line(self, name: str) -> str:
        row = self.rows.get(name, Row(not_run=["no test"]))
        tests = row.outcomes["passed"] + row.outcomes["failed"]
        kills, inputs = (f"{row.counts[kind]:,}" if row.counts[kind] else "" for kind in ("kills", "inputs"))
        reasons = "; ".join(f"{count} x {reason}" for reason, count in sorted(Counter(row.not_run).items()))
        return (
            f"| {name} | {ROWS[name]} | {tests} | {row.outcomes['failed']} | {kills} | {inputs} "
            f"| {row.seconds:.0f} | {reasons} |"
        )
