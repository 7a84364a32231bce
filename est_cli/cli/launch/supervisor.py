"""Workers on this machine as one: signals go to all, and when one is lost none is left.

This is not torch's elastic agent. When that is killed itself its workers live on; after a signal it does not say
how they ended, and it takes a worker's 143 after a save for a failure, after which the others have 30 s. How long they
have after a signal can be set in newer versions than the lowest that is supported here (docs/distributed.md).
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from est_cli.cli.launch.exit_status import WorkerStatus
from est_cli.cli.launch.handover import log_path, read_exit
from est_cli.common.child import end_children, start_child
from est_cli.common.signals import handling

GRACE_S = 5.0
"""What workers get to end by themselves when one of them has failed."""
SECOND_SIGNAL_S = 10.0
"""What they get after a second signal; after the first they have all the time that a save takes."""
_POLL_S = 0.1
_HOST = "127.0.0.1"


Workers = list[subprocess.Popen[bytes]]
"""By rank."""


def supervise(command: Sequence[str], processes: int, folder: Path) -> tuple[list[WorkerStatus], int | None]:
    """Run `command` as ranks 0 to `processes` - 1 until all have ended or those that are left are given up and killed.

    Returns how each ended, by rank, and the first signal that was passed on, if any. Each worker's stdin is a pipe that
    closes when this process ends, however it does; stdout and stderr are rank 0's, the others' stderr goes to a log.
    """
    signals: list[int] = []
    with handling(lambda signum, frame: signals.append(signum)), _started(command, processes, folder) as workers:
        _watch(workers, signals)
        return [_status(rank, worker, folder) for rank, worker in enumerate(workers)], (signals[0] if signals else None)


@contextmanager
def _started(command: Sequence[str], processes: int, folder: Path) -> Iterator[Workers]:
    workers: Workers = []
    with ExitStack() as stack:
        port = stack.enter_context(_reserved_port())
        lifeline, ours = os.pipe()
        stack.callback(os.close, ours)
        stack.callback(os.close, lifeline)
        # Before the pipe closes, at which workers that are left remove `folder`.
        stack.callback(end_children, workers)
        for rank in range(processes):
            workers.append(_start(command, rank, processes, port, lifeline, folder))
        yield workers


def _start(
    command: Sequence[str], rank: int, processes: int, port: int, lifeline: int, folder: Path
) -> subprocess.Popen[bytes]:
    environment = worker_environment(rank, processes, port)
    if rank == 0:
        return start_child(command, env=environment, stdin=lifeline)
    with log_path(folder, rank).open("wb") as log:
        return start_child(command, env=environment, stdin=lifeline, stdout=subprocess.DEVNULL, stderr=log)


def worker_environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """This process's environment with what torch.distributed reads."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    meeting = {"MASTER_ADDR": _HOST, "MASTER_PORT": port}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    if sys.platform.startswith("linux"):
        defaults["GLOO_SOCKET_IFNAME"] = "lo"  # not whatever the host's name resolves to
    return defaults | dict(os.environ) | {name: str(value) for name, value in (ranks | meeting).items()}


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free port that nobody else is given: bound but not listening, which lets rank 0 listen on it beside us."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((_HOST, 0))
        yield holder.getsockname()[1]


def _watch(workers: Workers, signals: Sequence[int]) -> None:
    """Until all have ended, or the time of those that are left is over."""
    passed_on, deadline = 0, math.inf
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        if any(WorkerStatus(rank, worker.poll()).failed for rank, worker in enumerate(workers)):
            deadline = min(deadline, time.monotonic() + GRACE_S)
        while passed_on < len(signals):
            passed_on += 1
            deadline = min(deadline, time.monotonic() + _patience_s(passed_on))
            for worker in workers:
                worker.terminate()
        time.sleep(_POLL_S)


def _patience_s(signals: int) -> float:
    return math.inf if signals == 1 else SECOND_SIGNAL_S if signals == 2 else 0.0


def _status(rank: int, worker: subprocess.Popen[bytes], folder: Path) -> WorkerStatus:
    """A worker that has said how it ends but does not get through its own shutdown has ended too."""
    said, code = read_exit(folder, rank), worker.poll()
    if code is None and said is not None:
        code = said.code
    return WorkerStatus(rank, code, said.message if said else None, _state(worker.pid))


def _state(pid: int) -> str:
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "hangs"
    return {"T": "stopped", "t": "stopped", "D": "waits for a device or a disk"}.get(letter, "hangs")
