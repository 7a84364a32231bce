"""What became of each job: a file per job while the sweep runs, and of them results.csv, results.json and the table."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.table import Table

from est_cli.cli.sweep.cells import Cell, best_cell, cell_columns, cells_of, spread_words
from est_cli.cli.sweep.jobs import Job
from est_cli.cli.sweep.program import Column, Program
from est_cli.common.errors import ConfigError, StorageError
from est_cli.common.table import csv_bytes, print_lines, print_whole, table_console, that_fits
from est_cli.config.setting import short_key
from est_cli.storage import disk, strict_json
from est_cli.storage.run_dir import LOCK, RunDir, write_json

_JSON, _CSV = "results.json", "results.csv"
_MAX_JSON_BYTES = 1 << 26
_RECORDS = ".jobs"
LAUNCHER = "launcher"
"""What a plugin writes itself lies here, inside the sweep's folder."""
_LAUNCHED = "multirun.yaml"
"""Hydra's note in it of what a launcher is given."""


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
    summary = (_summary(run) if status in (Status.done, Status.done_before) else None) or {}
    keys = job.program.numbers or [key for key in summary if key != "asked"]
    numbers = {key: summary.get(key) for key in keys} if summary else {}
    return Row(job.number, job.name, job.swept, status, str(run.root), exit_code, reason, numbers)


def planned_row(sweep: Path, job: Job) -> Row:
    """The row of a job before it starts."""
    if job.problem:
        return make_row(sweep, job, Status.skipped, reason=job.problem)
    return make_row(sweep, job, Status.done_before if is_done(sweep, job) else Status.not_run)


def is_done(sweep: Path, job: Job) -> bool:
    """Whether its folder has the summary of what it asks for, and of a run that was not lost at its end."""
    summary = _summary(RunDir(sweep / job.name))
    return summary is not None and summary.get("asked", "") == job.digest and not summary.get("not_finite")


def refuse_others(program: Program, sweep: Path) -> None:
    """ConfigError where the folder holds results that this program's sweep would overwrite and did not write."""
    try:
        found = strict_json.read_file(sweep / _JSON, _MAX_JSON_BYTES)
    except (OSError, ValueError):  # none, or damaged ones of a name that is ours
        return
    if "jobs" not in found or found.get("command", "est-train") != f"est-{program.name}":
        raise ConfigError(f"sweep: {sweep} holds results of another command; choose another name")


def begin(program: Program, sweep: Path, rows: Sequence[Row]) -> None:
    """Forget the jobs of earlier commands in this folder and write down these."""
    if (sweep / _RECORDS).is_symlink():
        raise StorageError(f"{sweep / _RECORDS}: a link; files of the sweep are deleted there, so it must be a folder")
    with disk.storage_errors(sweep):
        (sweep / _RECORDS).mkdir(exist_ok=True)
        for path in [*(sweep / _RECORDS).iterdir(), *sweep.glob(".tmp-results.*-[0-9]*")]:
            path.unlink()
    for row in rows:
        _keep(sweep, row)
    if rows:
        _write_results(program, sweep)


def record(program: Program, sweep: Path, row: Row) -> None:
    """Write down what became of a job; may be called on any machine that shares the folder."""
    _keep(sweep, row)
    _write_results(program, sweep)


def rows_of(sweep: Path) -> list[Row]:
    """In the order of the jobs."""
    with disk.storage_errors(sweep):
        records = [strict_json.read_file(path) for path in (sweep / _RECORDS).glob("*.json")]
    rows = [Row(**{**values, "status": Status(values["status"])}) for values in records]
    return sorted(rows, key=lambda row: (row.number, row.name))


def holds_no_job(sweep: Path) -> bool:
    """Whether no job has begun: nothing is there but the list of what was to be done, and what a launcher was told."""
    names = {path.name for path in sweep.iterdir()} - {_RECORDS, _JSON, _CSV, LOCK}
    names |= {path.name for path in (sweep / LAUNCHER).glob("*")} - {_LAUNCHED}
    return names <= {LAUNCHER} and all(row.status in (Status.not_run, Status.skipped) for row in rows_of(sweep))


def print_table(program: Program, sweep: str, rows: Sequence[Row]) -> None:
    """Write the table to stdout, `*` at the best values, and below it why jobs were skipped or failed.

    `sweep`: its folder. Where stdout is no terminal the table has no frames and is as wide as it needs.
    """
    console = table_console()
    columns = program.columns([row.numbers for row in rows])
    cells = _cells(program, rows)
    look: dict[str, Any] = {"room": console.width, "spare": _spare(program, columns), "plain": not console.is_terminal}
    shown, left_out = _table(sweep, rows, columns, marked=not cells, **look)
    print_whole(console, shown)
    if cells:
        shown, also = _table_of_cells(cells, columns, **look)
        print_whole(console, shown)
        left_out = [*dict.fromkeys([*left_out, *also])]
        print_lines(console, f"mean ± standard deviation (n - 1) over {program.repeats}s; *: the best mean")
    if program.note and any(column.key == program.objective for column in columns):
        print_lines(console, program.note)
    if left_out:
        print_lines(console, f"left out for room: {', '.join(left_out)}; all is in {Path(sweep) / _CSV}")
    print_lines(console, *(f"job {row.number} {_status(row)}: {row.reason}" for row in rows if row.reason))
    if program.report and sum(row.status in (Status.done, Status.done_before) for row in rows) > 1:
        print_lines(console, f"next      {program.report} {shlex.quote(sweep)}")


def _write_results(program: Program, sweep: Path) -> None:
    """results.csv and results.json, each in one go."""
    rows = rows_of(sweep)
    columns, cells = program.columns([row.numbers for row in rows]), _cells(program, rows)
    best = {_mark(program, column): _best_of(column, rows, cells) for column in columns if column.best}
    disk.replace_file(sweep / _CSV, csv_bytes([_flat(row, best, columns, cells) for row in rows]))
    jobs = [asdict(row) | {"best": False} | {mark: row.name in names for mark, names in best.items()} for row in rows]
    tree = {"sweep": sweep.name, "command": f"est-{program.name}", "jobs": jobs}
    if cells:
        tree["cells"] = [_cell_json(program, cell, cells, columns) for cell in cells]
    disk.replace_file(sweep / _JSON, (json.dumps(tree, indent=1, allow_nan=False) + "\n").encode())


def _cells(program: Program, rows: Sequence[Row]) -> list[Cell]:
    return cells_of([(row.swept, row.numbers) for row in rows], program.repeats)


def _cell_json(program: Program, cell: Cell, cells: Sequence[Cell], columns: Sequence[Column]) -> dict[str, Any]:
    marks = {_mark(program, column): cell is best_cell(cells, column) for column in columns if column.best}
    spreads = {column.key: spread for column in columns if (spread := cell.spread(column)) is not None}
    numbers = {key: asdict(spread) for key, spread in spreads.items()}
    return {"swept": cell.swept, "jobs": len(cell.jobs), "done": cell.done, **marks, "numbers": numbers}


def _best_of(column: Column, rows: Sequence[Row], cells: Sequence[Cell]) -> set[str]:
    """Names of the jobs with the best value, where values can be better than others: the first, or the best cell's."""
    if cells:
        found = best_cell(cells, column)
        return {
            row.name for row in rows if found is not None and row.numbers and found.swept.items() <= row.swept.items()
        }
    values = [(float(value), row) for row in rows if (value := column.value(row.numbers)) is not None]
    if column.best is None or not values:
        return set()
    wanted = column.best([value for value, _ in values])
    return {next(row.name for value, row in values if value == wanted)}


def _keep(sweep: Path, row: Row) -> None:
    write_json(sweep / _RECORDS / f"{row.name}.json", asdict(row))


def _mark(program: Program, column: Column) -> str:
    """The name under which the files mark the best job by this column."""
    return "best" if column.key == program.objective else f"best_{column.key}"


def _flat(row: Row, best: Mapping[str, set[str]], columns: Sequence[Column], cells: Sequence[Cell]) -> dict[str, Any]:
    outcome = {"status": str(row.status), "exit_code": row.exit_code, "reason": row.reason}
    marks = {"best": ""} | {mark: "*" if row.name in names else "" for mark, names in best.items()}
    numbers = {column.key: column.value(row.numbers) for column in columns}
    own = next((cell for cell in cells if cell.swept.items() <= row.swept.items()), None)
    spreads = {} if own is None else dict(cell_columns(own, columns))
    return {"job": row.number, **row.swept, **outcome, **marks, **numbers, **spreads, "folder": row.folder}


def _summary(run: RunDir) -> dict[str, Any] | None:
    """What a job has written last; None where it has not yet."""
    try:
        return strict_json.read_file(run.summary) if run.is_finished() else None
    except (OSError, ValueError) as error:
        raise StorageError(f"{run.summary}: cannot be read ({error}); is it a file that a run wrote?") from error


def _spare(program: Program, columns: Sequence[Column]) -> list[str]:
    """Headings that a narrow terminal has no room for, what is missed least first; the objective is none of them."""
    telling = [column.heading for key in reversed(program.telling) for column in columns if column.key == key]
    others = [column.heading for column in reversed(columns) if column.key not in (program.objective, *program.telling)]
    return ["folder", *(heading for heading in (*others, *telling) if heading is not None)]


def _table(
    sweep: str, rows: Sequence[Row], columns: Sequence[Column], marked: bool, **look: Any
) -> tuple[Table, list[str]]:
    """`marked`: with `*` at the best single jobs; `look`: see that_fits, which gives what this gives."""
    keys = list(dict.fromkeys(key for row in rows for key in row.swept))
    shown = {column.heading: column for column in columns if column.heading is not None}
    best = {heading: _best_of(column, rows, []) if marked else set() for heading, column in shown.items()}
    lines = []
    for row in rows:
        values = [row.swept.get(key, "-") for key in keys]
        numbers = [_shown(row, column, row.name in best[heading]) for heading, column in shown.items()]
        lines.append([str(row.number), *values, _status(row), *numbers, row.name])
    shown_columns = ["job", *(short_key(key, keys) for key in keys), "status", *shown, "folder"]
    return that_fits(shown_columns, lines, title=f"Sweep {sweep}", words=["status", "folder"], **look)


def _table_of_cells(cells: Sequence[Cell], columns: Sequence[Column], **look: Any) -> tuple[Table, list[str]]:
    """A row for each cell, `*` at the best means; `look` as above."""
    keys = [*cells[0].swept]
    shown = {column.heading: column for column in columns if column.heading is not None}
    best = {heading: best_cell(cells, column) for heading, column in shown.items()}
    lines = []
    for cell in cells:
        done = f"{cell.done}" if cell.done == len(cell.jobs) else f"{cell.done} of {len(cell.jobs)}"
        numbers = [
            ("*" if cell is best[heading] else "") + spread_words(cell.spread(column), column)
            for heading, column in shown.items()
        ]
        lines.append([*cell.swept.values(), done, *numbers])
    headings = [*(short_key(key, keys) for key in keys), "seeds", *shown]
    spare = [heading for heading in look["spare"] if heading in headings]
    return that_fits(headings, lines, title="Over seeds", **look | {"spare": spare})


def _status(row: Row) -> str:
    return f"{row.status} ({row.exit_code})" if row.status is Status.failed else str(row.status)


def _shown(row: Row, column: Column, best: bool) -> str:
    value, spread = column.value(row.numbers), row.numbers.get(f"{column.key}_sd")
    if value is None:
        return "-"
    text = format(column.scale * value if column.scale != 1 else value, column.form)
    text += "" if spread is None else f" ± {format(column.scale * spread, column.form)}"
    return f"*{text}" if best else text
