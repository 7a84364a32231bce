"""The harness's side of the protocol: start a contender, let it take steps, end it whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Any

from contenders.protocol import Job

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Contender:
    """How a contender is started."""

    name: str
    module: str
    job: Job
    python: str = sys.executable


class Died(Exception):
    """A contender ended, or was ended, where it owed an answer."""


@dataclass(frozen=True)
class Live:
    """A contender that waits for its turn; `ready` is what it said after its first step."""

    contender: Contender
    process: subprocess.Popen[str]
    log: Path
    limit_s: float
    ready: dict[str, Any]

    def take(self, steps: int) -> dict[str, Any]:
        """Its answer after `steps` optimizer steps. Raises Died."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the missing answer tells what is wrong
            print(json.dumps({"steps": steps}), file=self.process.stdin, flush=True)
        return _answer(self.process, self.log, self.limit_s)


@contextmanager
def started(contender: Contender, environment: dict[str, str], limit_s: float) -> Iterator[Live]:
    """A contender that has taken its first step. Raises Died; it and its children are gone after the block."""
    log = Path(contender.job.folder) / f"{contender.name.replace(' ', '-')}.log"
    job = json.dumps(asdict(replace(contender.job, started=time.time())))
    with log.open("a") as errors:
        process = subprocess.Popen(
            [contender.python, "-m", f"contenders.{contender.module}", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Live(contender, process, log, limit_s, _answer(process, log, limit_s))
    finally:
        _end(process)


def _answer(process: subprocess.Popen[str], log: Path, limit_s: float) -> dict[str, Any]:
    assert process.stdout is not None
    timer = Timer(limit_s, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if line:
        answer: dict[str, Any] = json.loads(line)
        return answer
    last = log.read_text("utf-8", "replace").strip().splitlines()[-1:] or ["without a word"]
    raise Died(f"ended with {process.wait()}: {last[0][:200]}")


def _end(process: subprocess.Popen[str]) -> None:
    """End the whole group: a worker may have started a process of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def worker_environment(job: Job, malloc: dict[str, str]) -> dict[str, str]:
    """Where modules are found, threads, and no look at the network; on a CPU also `malloc`."""
    paths = [str(BENCHMARKS), str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        **(malloc if job.device == "cpu" else {}),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(job.threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
