"""Any nanoGPT-style train.py, run by its own command line: one process for the start and one for each turn.

Its `iter N: loss X, time Yms` lines are the clock. Iteration 0 (it holds an evaluation) and the warm-up are dropped;
on one thread the CPU clock of its process is read at each of these lines instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contenders import protocol
from contenders.protocol import Job

LINE = re.compile(r"^iter (\d+): loss ([\d.]+|nan), time ([\d.]+)ms")
GPT2_VOCAB = 50304
"""What such a script takes where data/meta.pkl tells nothing."""
NEVER = 1_000_000_000


@dataclass(frozen=True)
class Iteration:
    """One line of its log; `clock_s` is the process's CPU clock or, on a GPU, the seconds of its lines so far."""

    loss: float
    clock_s: float
    at: float
    """time.time() when the line was read."""


def command(job: Job, max_iters: int) -> list[str]:
    flags = {
        "batch_size": job.micro_batch,
        "block_size": job.seq_len,
        "gradient_accumulation_steps": job.micro_steps,
        "n_layer": job.num_layers,
        "n_head": job.num_heads,
        "n_embd": job.hidden_size,
        "bias": True,
        "dropout": 0.0,
        "max_iters": max_iters,
        "eval_interval": NEVER,
        "eval_iters": 1,
        "log_interval": 1,
        "compile": job.compile,
        "device": job.device,
        "dtype": "bfloat16" if job.precision == "bf16" else "float32",
        "dataset": job.folder,
        "out_dir": os.path.join(job.folder, "nanogpt"),
        "always_save_checkpoint": False,
    }
    return [sys.executable, "-u", Path(job.script).name, *(f"--{key}={value}" for key, value in flags.items())]


def iterations(job: Job, count: int) -> Iterator[Iteration]:
    """The first `count` iterations of a new process; RuntimeError where it ends before. Its log goes to stderr.

    It is told to take one more: a process that has ended has no CPU clock.
    """
    here = Path(job.script).resolve().parent
    told = 0.0
    with subprocess.Popen(command(job, count), cwd=here, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            if count and (match := LINE.match(line)):
                told += float(match[3]) / 1e3
                clock_s = cpu_clock_s(process.pid) if job.cpu_time else told
                count -= 1
                yield Iteration(float(match[2]), clock_s, time.time())
    if process.returncode or count:
        raise RuntimeError(f"{job.script} ended with {process.returncode}; {count} of its iterations are missing")


def cpu_clock_s(pid: int) -> float:
    """CPU seconds of a running process."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def main() -> None:
    job, replies = protocol.connect()
    if job.vocab_size != GPT2_VOCAB:  # the format such a script expects; written here, never read by us
        Path(job.folder, "meta.pkl").write_bytes(pickle.dumps({"vocab_size": job.vocab_size}))
    (first,) = iterations(job, 1)
    ready = {"ready": True, "startup_s": first.at - job.started, "loss": first.loss, "new_process_per_turn": True}
    protocol.reply(replies, {**ready, "environment": protocol.environment(job)})
    for line in sys.stdin:
        found = list(iterations(job, 1 + job.warm_up + json.loads(line)["steps"]))
        seconds = found[-1].clock_s - found[job.warm_up].clock_s
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        memory = used * (1 if sys.platform == "darwin" else 1024) / 1e9 if job.device == "cpu" else None
        protocol.reply(replies, {"seconds": seconds, "peak_memory_gb": memory, "loss": found[-1].loss})


if __name__ == "__main__":
    main()
