"""A command with launch.num_processes=N: one frozen configuration, N workers, one line at the end."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from est_cli.cli.launch.exit_status import WorkerStatus, overall_error
from est_cli.cli.launch.handover import log_tail, read_run_folder, save_job
from est_cli.cli.launch.supervisor import supervise
from est_cli.common.child import python_command


def launch(command: str, config: Any, continued: Path | None, continues: str) -> None:
    """Do what est-COMMAND does with this configuration in launch.num_processes workers on this machine.

    `continued`: the folder of the run that goes on; `continues`: how to go on after a failure, empty: with the run's
    folder. Returns when all workers are done.

    Raises StoppedBySignal, the error that a worker ended with, or PeerLostError where a worker was killed or lost.
    """
    with tempfile.TemporaryDirectory(prefix="est-launch-") as name:
        folder = Path(name)
        save_job(command, config, continued, folder)
        ends, signum = supervise(_worker_command(folder), config.launch.num_processes, folder)
        error = overall_error(ends, signum, continues or _resume_hint(continued, folder))
        _show_logs(ends, folder)
    if error is not None:
        raise error


def _worker_command(folder: Path) -> list[str]:
    return python_command("est_cli.cli.launch.worker", str(folder))


def _resume_hint(continued: Path | None, folder: Path) -> str:
    """How to go on after a failure of a run that leaves checkpoints."""
    run = read_run_folder(folder) if continued is None else str(continued)
    return "no step was done" if run is None else f"resume={run} continues from the last checkpoint"


def _show_logs(ends: Sequence[WorkerStatus], folder: Path) -> None:
    """What others than the first said, where it explains something: one bug's traceback, or all with EST_DEBUG=1."""
    bug = next((end for end in ends if end.code == 1), None)
    for end in ends[1:]:
        if end is bug or os.environ.get("EST_DEBUG") == "1":
            tail = log_tail(folder, end.rank)
            print(f"rank {end.rank}:\n{tail}" if tail else f"rank {end.rank}: said nothing", file=sys.stderr)
