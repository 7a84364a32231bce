"""A command with launch.num_processes=N: one frozen configuration, N workers, one line at the end."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from est_cli.cli.launch.exit_status import WorkerStatus, overall_error
from est_cli.cli.launch.handover import log_tail, read_run_folder, save_job
from est_cli.cli.launch.supervisor import supervise
from est_cli.common.child import python_command
from est_cli.config import AnalyzeConfig, EvalConfig
from est_cli.training.start import Start


def launch(start: Start | EvalConfig | AnalyzeConfig) -> None:
    """Train, evaluate or analyse with launch.num_processes workers on this machine; returns when all of them are done.

    Raises StoppedBySignal, the error that a worker ended with, or PeerLostError where a worker was killed or lost.
    """
    with tempfile.TemporaryDirectory(prefix="est-launch-") as name:
        folder = Path(name)
        save_job(start, folder)
        settings = start.config if isinstance(start, Start) else start
        ends, signum = supervise(_worker_command(folder), settings.launch.num_processes, folder)
        error = overall_error(ends, signum, _continues(start, folder))
        _show_logs(ends, folder)
    if error is not None:
        raise error


def _worker_command(folder: Path) -> list[str]:
    return python_command("est_cli.cli.launch.worker", str(folder))


def _continues(start: Start | EvalConfig | AnalyzeConfig, folder: Path) -> str:
    """How to go on after a failure."""
    if isinstance(start, EvalConfig):
        return "the same command goes on with the fine-tunings that are left"
    if isinstance(start, AnalyzeConfig):
        return "nothing was written; give the same command again"
    run = read_run_folder(folder) if start.folder is None else str(start.folder)
    return "no step was done" if run is None else f"resume={run} continues from the last checkpoint"


def _show_logs(ends: Sequence[WorkerStatus], folder: Path) -> None:
    """What others than the first said, where it explains something: one bug's traceback, or all with EST_DEBUG=1."""
    bug = next((end for end in ends if end.code == 1), None)
    for end in ends[1:]:
        if end is bug or os.environ.get("EST_DEBUG") == "1":
            tail = log_tail(folder, end.rank)
            print(f"rank {end.rank}:\n{tail}" if tail else f"rank {end.rank}: said nothing", file=sys.stderr)
