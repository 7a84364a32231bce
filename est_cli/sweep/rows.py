"""What became of each job: a small file per job while the sweep runs, and results.csv and results.json made of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from est_cli.checkpoint import disk, strict_json
from est_cli.errors import StorageError
from est_cli.run_dir import RunDir, write_json
from est_cli.sweep.jobs import Job

NUMBERS = (
    *("steps", "final_val_loss", "perplexity", "flops_saved_pct_blocks", "flops_saved_pct_total"),
    *("time_s", "time_saved_pct"),
)
"""Keys of summary.json that the results show."""
_RECORDS = ".jobs"


class Status(StrEnum):
    done = "done"
    done_before = "done before"
    skipped = "skipped"
    failed = "failed"
    stopped = "stopped"
    not_run = "not run"


@dataclass(frozen=True)
class Row:
    """One job of the sweep."""

    number: int
    name: str
    swept: dict[str, str]
    status: Status
    folder: str
    exit_code: int | None = None
    reason: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    """What summary.json says, where the job is done."""


def make_row(sweep: Path, job: Job, status: Status, exit_code: int | None = None, reason: str | None = None) -> Row:
    run = RunDir(sweep / job.name)
    numbers = _numbers(run) if status in (Status.done, Status.done_before) else {}
    return Row(job.number, job.name, job.swept, status, str(run.root), exit_code, reason, numbers)


def planned_row(sweep: Path, job: Job) -> Row:
    """The row of a job before it starts."""
    if job.problem:
        return make_row(sweep, job, Status.skipped, reason=job.problem)
    return make_row(sweep, job, Status.done_before if RunDir(sweep / job.name).is_finished() else Status.not_run)


def begin(sweep: Path, rows: Sequence[Row]) -> None:
    """Forget the jobs of earlier commands in this folder and write down these."""
    with disk.storage_errors(sweep):
        (sweep / _RECORDS).mkdir(exist_ok=True)
        for path in [*(sweep / _RECORDS).iterdir(), *sweep.glob(".tmp-*")]:
            path.unlink()
    for row in rows:
        _keep(sweep, row)
    if rows:
        write_results(sweep)


def record(sweep: Path, row: Row) -> None:
    """Write down what became of a job; may be called on any machine that shares the folder."""
    _keep(sweep, row)
    write_results(sweep)


def rows_of(sweep: Path) -> list[Row]:
    """In the order of the jobs."""
    with disk.storage_errors(sweep):
        records = [strict_json.read_object(path.read_bytes()) for path in (sweep / _RECORDS).glob("*.json")]
    rows = [Row(**{**values, "status": Status(values["status"])}) for values in records]
    return sorted(rows, key=lambda row: (row.number, row.name))


def best_of(rows: Sequence[Row]) -> Row | None:
    """The one with the lowest validation loss."""
    known = [row for row in rows if row.numbers.get("final_val_loss") is not None]
    return min(known, key=lambda row: float(row.numbers["final_val_loss"]), default=None)


def write_results(sweep: Path) -> None:
    """results.csv and results.json, each in one go."""
    rows = rows_of(sweep)
    best = best_of(rows)
    table = [_flat(row, row is best) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in table for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    disk.replace_file(sweep / "results.csv", text.getvalue().encode())
    jobs = [asdict(row) | {"best": row is best} for row in rows]
    tree = {"sweep": sweep.name, "jobs": jobs}
    disk.replace_file(sweep / "results.json", (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode())


def _keep(sweep: Path, row: Row) -> None:
    write_json(sweep / _RECORDS / f"{row.name}.json", asdict(row))


def _flat(row: Row, best: bool) -> dict[str, Any]:
    told = {"status": str(row.status), "exit_code": row.exit_code, "reason": row.reason, "best": "*" if best else ""}
    numbers = {key: row.numbers.get(key) for key in NUMBERS}
    return {"job": row.number, **row.swept, **told, **numbers, "folder": row.folder}


def _numbers(run: RunDir) -> dict[str, Any]:
    try:
        summary = strict_json.read_object(run.summary.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{run.summary}: cannot be read ({error}); is it a file that a run wrote?") from error
    return {key: summary.get(key) for key in NUMBERS}
