"""One job after the other, each written down when it has ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from est_cli.cli.sweep.jobs import Job
from est_cli.cli.sweep.rows import Row, Status, is_done, make_row, record
from est_cli.cli.sweep.run_job import JobExit, JobSignals, noted_signals, run_child
from est_cli.common.child import python_command
from est_cli.common.errors import StoppedBySignal
from est_cli.storage.run_dir import RunDir


def perform_all(jobs: Sequence[Job], sweep: Path) -> None:
    """Run those that can run and are not done, in this order. Raises StoppedBySignal after the one that was stopped."""
    with noted_signals() as signals:
        for job in jobs:
            if job.problem is None:
                perform(job, len(jobs), sweep, signals)
            refuse_more(signals, job, len(jobs))


def perform(job: Job, total: int, sweep: Path, signals: JobSignals, refused: Status = Status.failed) -> Row:
    """Run this job, unless it is done, and record its row; `refused`: its status where it exits with 2."""
    if is_done(sweep, job):
        row = make_row(sweep, job, Status.done_before)
    else:
        print(f"job {job.number}/{total}  {job.name}", file=sys.stderr, flush=True)
        ended = run_child(python_command(job.program.module, *job.arguments), signals)
        row = _row(job, sweep, ended, signals, refused)
    record(job.program, sweep, row)
    return row


def refuse_more(signals: JobSignals, job: Job, total: int) -> None:
    """StoppedBySignal if a signal came."""
    if signals.signum is not None:
        message = f"in job {job.number} of {total}; the same command continues the sweep"
        raise StoppedBySignal(signals.signum, message)


def _row(job: Job, sweep: Path, ended: JobExit, signals: JobSignals, refused: Status) -> Row:
    if ended.code == 0 and RunDir(sweep / job.name).is_finished():
        return make_row(sweep, job, Status.done)
    if signals.signum is not None and ended.code > 128:
        return make_row(sweep, job, Status.stopped, ended.code, ended.reason)
    reason = ended.reason or ("it ended without a summary.json" if ended.code == 0 else "it said nothing")
    return make_row(sweep, job, refused if ended.code == 2 else Status.failed, ended.code or 1, reason)
