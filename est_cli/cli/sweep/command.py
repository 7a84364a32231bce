"""A sweep from its command line to its table and exit code."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.cli.sweep.jobs import fixed_config, name_of_sweep, plan_jobs
from est_cli.cli.sweep.launcher import launch_jobs, read_settings
from est_cli.cli.sweep.overrides import take_apart
from est_cli.cli.sweep.program import Program
from est_cli.cli.sweep.results import Row, Status, begin, holds_no_job, planned_row, print_table, refuse_others, rows_of
from est_cli.cli.sweep.run_job import perform_all
from est_cli.cli.sweep.search import Search
from est_cli.common.counts import counted
from est_cli.common.errors import ConfigError, EstError, RunLockedError
from est_cli.config.command_line import CommandLine
from est_cli.config.paths import paths_problems
from est_cli.config.setting import refuse
from est_cli.storage import disk
from est_cli.storage.run_dir import RunDir, lock


class JobFailed(EstError):
    """Raised at the end of a sweep with the exit code of the first job that failed."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_sweep(program: Program, line: CommandLine) -> None:
    """Run all jobs that can run and are not done, and show what became of each.

    Raises ConfigError before anything is written, RunLockedError where another process runs this sweep,
    StoppedBySignal, and JobFailed.
    """
    _refuse_launchers(program)
    parts = take_apart(program.command, program.no_place, line)
    settings = read_settings(program, parts.settings)
    if settings.search is not None and not parts.swept:
        raise ConfigError("--multirun: nothing is searched; give a key several values, KEY=A,B or KEY=interval(A,B)")
    fixed = fixed_config(parts)
    refuse(paths_problems(fixed.paths))
    name = name_of_sweep(program, parts, fixed)
    if settings.search is not None:
        program.check_search(fixed, parts.swept)
    search = None if settings.search is None else Search(settings.search, program, parts)
    jobs = plan_jobs(program, parts, name) if search is None else []
    run_all = partial(launch_jobs, settings) if settings.launches else perform_all
    with _owned(program, fixed.paths.outputs_folder / name) as sweep:
        rows = [planned_row(sweep, job) for job in jobs]
        begin(program, sweep, rows)
        _announce(sweep, rows)
        try:
            if search is None:
                run_all(jobs, sweep)
            else:
                search.run(sweep, run_all)
        finally:
            rows = rows_of(sweep)
            if not holds_no_job(sweep):
                print_table(program, str(sweep), rows)
    _raise_first_failure(rows)


def _refuse_launchers(program: Program) -> None:
    refuse_wrong_launch(os.environ, None, program.name)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("--multirun: a sweep starts the processes of its jobs itself; use launch.num_processes=N")


@contextmanager
def _owned(program: Program, sweep: Path) -> Iterator[Path]:
    """Make the sweep's folder, or take it, and keep other sweeps out of it.

    One that was made here is taken away again where an error comes before any job has begun.
    """
    if RunDir(sweep).config.exists():
        raise ConfigError(f"sweep: {sweep} is the folder of a run; choose another name")
    refuse_others(program, sweep)
    made = [folder for folder in (sweep, *sweep.parents) if not folder.exists()]
    with disk.storage_errors(sweep):
        sweep.mkdir(parents=True, exist_ok=True)
    try:
        with lock(RunDir(sweep)):
            try:
                yield sweep
            except EstError:
                if made and holds_no_job(sweep):
                    _take_away(made)
                raise
    except RunLockedError as error:
        reason = str(error).partition(";")[0]
        raise RunLockedError(f"{reason}; wait until it ends, or choose another folder with sweep=") from None


def _take_away(made: Sequence[Path]) -> None:
    """The sweep's folder and those above it that were made for it, as far as nothing else is in them."""
    disk.remove(made[0])
    with suppress(OSError):
        for folder in made[1:]:
            folder.rmdir()


def _announce(sweep: Path, rows: Sequence[Row]) -> None:
    counts = Counter("to run" if row.status is Status.not_run else str(row.status) for row in rows)
    states = ", ".join(f"{count} {status}" for status, count in counts.items())
    what = f"{counted(len(rows), 'job')}: {states}" if rows else "a search"
    print(f"sweep {sweep}  {what}", file=sys.stderr, flush=True)


def _raise_first_failure(rows: Sequence[Row]) -> None:
    failed = [row for row in rows if row.status is Status.failed]
    if failed:
        first = failed[0]
        raise JobFailed(f"{first.folder}: {first.reason}", first.exit_code or 1)
