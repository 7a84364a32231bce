"""Jobs one after the other, each a process of its own and written down when it has ended.

A job's progress goes through, signals go to it, and it never outlives this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from est_cli.cli.sweep.jobs import Job
from est_cli.cli.sweep.nodes import Nodes, command_of, nodes_of
from est_cli.cli.sweep.results import Row, Status, is_done, make_row, record
from est_cli.common.child import end_children, start_child
from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import handling
from est_cli.storage.run_dir import RunDir

SAVE_S = 100.0
"""How long a job may take to save when this process must end."""
SECOND_SIGNAL_S = 5.0
_LAST_WORDS = tuple(f"{program}: {what}: " for program in ("est-train", "est-eval") for what in ("error", "stopped"))


@dataclass(frozen=True)
class JobExit:
    """How a job ended."""

    code: int
    """Its exit code; 128 + n where signal n killed it."""
    reason: str | None
    """What it said of it, in one line: where it is not what a command of ours ends with, its last line."""


@dataclass
class JobSignals:
    """What this process was asked by signals while jobs run."""

    signum: int | None = None
    """The first that came."""
    child: subprocess.Popen[str] | None = None
    pending: list[int] = field(default_factory=list)
    """It, until it is passed on to the job."""

    def pass_on(self) -> None:
        """Once: for the job a second signal means that it must not even save."""
        if self.child is not None:
            with suppress(IndexError):
                self.child.send_signal(self.pending.pop())


def perform_all(jobs: Sequence[Job], sweep: Path) -> None:
    """Run those that can run and are not done, in this order. Raises StoppedBySignal after the one that was stopped."""
    nodes = nodes_of(os.environ)
    with noted_signals() as signals:
        for job in jobs:
            row = None if job.problem is not None else _performed(job, sweep, signals, nodes)
            if row is not None and nodes.rank == 0:
                record(job.program, sweep, row)
            if signals.signum is not None:
                message = f"in job {job.number} of {job.total}; the same command continues the sweep"
                raise StoppedBySignal(signals.signum, message)


def _performed(job: Job, sweep: Path, signals: JobSignals, nodes: Nodes) -> Row:
    """What became of a job that can run."""
    if is_done(sweep, job):
        return make_row(sweep, job, Status.done_before)
    print(f"job {job.number}/{job.total}  {job.name}", file=sys.stderr, flush=True)
    ended = run_child(command_of(job, nodes), signals)
    if ended.code == 0 and RunDir(sweep / job.name).is_finished():
        return make_row(sweep, job, Status.done)
    if signals.signum is not None and (ended.code > 128 or nodes.count > 1):  # torchrun ends with 1 whatever happened
        code = ended.code if ended.code > 128 else 128 + signals.signum
        return make_row(sweep, job, Status.stopped, code, ended.reason)
    reason = ended.reason or ("it ended without a summary.json" if ended.code == 0 else "it said nothing")
    status = Status.skipped if job.proposed and ended.code == 2 else Status.failed
    return make_row(sweep, job, status, ended.code or 1, reason)


@contextmanager
def noted_signals() -> Iterator[JobSignals]:
    """The first signal that asks to stop is noted and passed on to the job, which saves and stops; the second raises.

    In a job of submitit SIGTERM and SIGINT only: the others are how it warns of a time limit, and it hears them itself.
    """
    signals = JobSignals()

    def note(signum: int, frame: FrameType | None) -> None:
        if signals.signum is not None:
            raise StoppedBySignal(signals.signum, "by a second signal, at once")
        signals.signum = signum
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":  # which sends it to every process of a job itself
            signals.pending.append(signum)
        signals.pass_on()

    numbers = (signal.SIGTERM, signal.SIGINT) if "SUBMITIT_EXECUTOR" in os.environ else None
    with handling(note, numbers):
        yield signals


def run_child(command: Sequence[str], signals: JobSignals) -> JobExit:
    """Run a job, to which only `signals` get through, to its end."""
    # submitit's warning reaches the job as SIGTERM, so it ignores what Slurm sends to every process.
    ignored = [signal.SIGUSR2] if "SUBMITIT_EXECUTOR" in os.environ else []
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = start_child(
        command, tied=True, ignored=ignored, stdin=nothing, stdout=nothing, stderr=pipe, text=True, errors="replace"
    )
    words: dict[str, str] = {}
    assert process.stderr is not None
    reader = threading.Thread(target=_show, args=(process.stderr, words), daemon=True)
    reader.start()
    signals.child = process
    signals.pass_on()  # one that came while the process was started
    try:
        code = process.wait()
    except BaseException:  # a second signal, or a cluster's notice that this machine is needed
        end_children([process], SAVE_S if signals.signum is None else SECOND_SIGNAL_S)
        raise
    finally:
        signals.child = None
    reader.join(SECOND_SIGNAL_S)
    return JobExit(code if code >= 0 else 128 - code, _killed(code) or words.get("end") or words.get("last"))


def _show(stream: IO[str], words: dict[str, str]) -> None:
    """Pass a job's progress on and note the line that it ends with; it must not block where nobody listens to us."""
    for line in stream:
        with suppress(OSError, ValueError):
            sys.stderr.write(line)
            sys.stderr.flush()
        if line.strip():
            words["last"] = line.strip()
        if line.startswith(_LAST_WORDS):
            words["end"] = line.partition(": ")[2].partition(": ")[2].strip()


def _killed(code: int) -> str | None:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else None
