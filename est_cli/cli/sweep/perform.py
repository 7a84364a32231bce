"""One job after the other, each written down when it has ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from est_cli.cli.sweep.jobs import Job
from est_cli.cli.sweep.rows import Row, Status, is_done, make_row, record
from est_cli.cli.sweep.run_job import JobSignals, noted_signals, run_child
from est_cli.common.child import python_command
from est_cli.common.errors import StoppedBySignal
from est_cli.storage.run_dir import RunDir


def perform_all(jobs: Sequence[Job], sweep: Path) -> None:
    """Run those that can run and are not done, in this order. Raises StoppedBySignal after the one that was stopped."""
    with noted_signals() as signals:
        for job in jobs:
            if job.problem is None:
                record(job.program, sweep, _performed(job, sweep, signals))
            if signals.signum is not None:
                message = f"in job {job.number} of {job.total}; the same command continues the sweep"
                raise StoppedBySignal(signals.signum, message)


def _performed(job: Job, sweep: Path, signals: JobSignals) -> Row:
    """What became of a job that can run."""
    if is_done(sweep, job):
        return make_row(sweep, job, Status.done_before)
    print(f"job {job.number}/{job.total}  {job.name}", file=sys.stderr, flush=True)
    ended = run_child(python_command(job.program.module, *job.arguments), signals)
    if ended.code == 0 and RunDir(sweep / job.name).is_finished():
        return make_row(sweep, job, Status.done)
    if signals.signum is not None and ended.code > 128:
        return make_row(sweep, job, Status.stopped, ended.code, ended.reason)
    reason = ended.reason or ("it ended without a summary.json" if ended.code == 0 else "it said nothing")
    status = Status.skipped if job.proposed and ended.code == 2 else Status.failed
    return make_row(sweep, job, status, ended.code or 1, reason)
