"""Workers that train nothing, and the launcher that supervises them in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.lab import heed_signals

WORKER = """
import json, os, signal, subprocess, sys, threading, time
rank, folder, (what, number) = int(os.environ["RANK"]), sys.argv[1], json.loads(sys.argv[2])[int(os.environ["RANK"])]

def lifeline():
    while os.read(0, 1):
        pass
    os.killpg(os.getpid(), signal.SIGKILL)

threading.Thread(target=lifeline, daemon=True).start()
pids = [os.getpid()]
if what == "save":  # takes its time after a signal
    def save(signum, frame):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(number)
        open(f"{folder}/rank-{rank}.json", "w").write(json.dumps({"code": 143, "message": "saved"}))
        os._exit(143)
    signal.signal(signal.SIGTERM, save)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what in ("helper", "deaf"):
    pids.append(subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL).pid)
open(f"{folder}/part-{rank}", "w").write(json.dumps(pids))
os.rename(f"{folder}/part-{rank}", f"{folder}/pids-{rank}")
others = [f"{folder}/pids-{other}" for other in range(int(os.environ["WORLD_SIZE"]))]
while not all(map(os.path.exists, others)):
    time.sleep(0.01)
if what == "exit":
    print(f"rank {rank} on stdout", flush=True)
    print(f"rank {rank} on stderr", file=sys.stderr, flush=True)
    sys.exit(number)
if what == "word":  # its last word, and no end
    open(f"{folder}/rank-{rank}.json", "w").write(json.dumps({"code": number, "message": "lost"}))
    signal.pause()
if what == "kill":
    os.kill(os.getpid(), number)
if what == "helper":
    sys.exit(number)
while True:
    time.sleep(60)
"""

LAUNCHER = """
import json, sys
from pathlib import Path
from est_cli.cli.launch import supervisor
supervisor.GRACE_S, supervisor.SECOND_SIGNAL_S = 1.0, 1.0
ends, signum = supervisor.supervise(sys.argv[2:], len(json.loads(sys.argv[-1])), Path(sys.argv[1]))
print(json.dumps([[[end.code, end.state] for end in ends], signum]))
"""

Plan = Sequence[tuple[str, float]]


@dataclass
class Launched:
    process: subprocess.Popen[str]
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def pids(self) -> list[list[int]]:
        """Of each worker and its helpers."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("pids-*"))]

    def ended(self) -> tuple[list[int | None], list[str], int | None, float]:
        """(exit codes, states, the signal that was passed on, seconds that it took)."""
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, err
        ends, signum = json.loads(out.splitlines()[-1])
        return [code for code, _ in ends], [state for _, state in ends], signum, time.monotonic() - self.began

    def all_gone(self) -> bool:
        return not any(alive(pid) for pids in self.pids() for pid in pids)


@contextmanager
def launched(folder: Path, plan: Plan) -> Iterator[Launched]:
    """The launcher, all of whose workers are doing what they shall; whatever is left at the end is killed."""
    worker = [sys.executable, "-S", "-c", WORKER, str(folder), json.dumps(plan)]
    command = [sys.executable, "-c", LAUNCHER, str(folder), *worker]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
    )
    run = Launched(process, folder)
    try:
        wait_until(lambda: len(run.pids()) == len(plan) or process.poll() is not None)
        run.began = time.monotonic()
        yield run
    finally:
        process.kill()
        process.communicate()
        for pid in itertools.chain(*run.pids()):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return state(pid) not in ("", "Z", "X")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
