"""The worker's side of the protocol. Needs torch and numpy only, so that it runs in a rival's own environment."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

LIBRARIES = ("torch", "transformers", "accelerate", "litgpt", "numpy")
ADAMW: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "fused": True}
WEIGHT_DECAY, CLIP, LR = 0.1, 1.0, 3e-4


@dataclass(frozen=True)
class Job:
    """What all contenders share, and the two fields that single one out (`stage`, `script`)."""

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    seq_len: int
    tokens: int
    """Tokens per optimizer step."""
    micro_batch: int
    """Sequences per forward pass."""
    device: str
    precision: str
    compile: bool
    cpu_time: bool
    """Seconds are CPU seconds of the process (one thread), not wall-clock seconds."""
    threads: int
    seed: int
    folder: str
    """Holds train.bin and val.bin, uint16 token ids; a worker may write there below its own name."""
    started: float
    """time.time() just before the process was started."""
    stage: int = 0
    """ours: 1 to 3, or 0 for a dense run."""
    script: str = ""
    """nanogpt: path of the train.py."""
    warm_up: int = 0
    """nanogpt: iterations that are not counted, at the start of each of its processes."""

    @property
    def micro_steps(self) -> int:
        return self.tokens // self.seq_len // self.micro_batch

    def clock(self) -> float:
        return time.process_time() if self.cpu_time else time.perf_counter()

    def synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def connect() -> tuple[Job, TextIO]:
    """The job, and the handle that replies go to; whatever libraries print to stdout lands on stderr from here on."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    return job, replies


def reply(replies: TextIO, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=replies, flush=True)


def turns(job: Job, replies: TextIO, loss: Callable[[], float | None]) -> Iterator[None]:
    """Yields whenever the next optimizer step is to be taken; `loss()` is that of the last one, where it is known."""
    yield
    job.synchronize()
    ready = {"ready": True, "startup_s": time.time() - job.started, "loss": loss(), "environment": environment(job)}
    reply(replies, ready)
    for line in sys.stdin:
        begin = job.clock()
        for _ in range(json.loads(line)["steps"]):
            yield
        job.synchronize()
        seconds = job.clock() - begin
        reply(replies, {"seconds": seconds, "peak_memory_gb": peak_memory_gb(job), "loss": loss()})


def serve(job: Job, replies: TextIO, step: Callable[[], Callable[[], float]]) -> None:
    """Take the steps that are asked for; `step()` takes one and returns, without waiting, what will read its loss."""
    last: list[Callable[[], float]] = []
    for _ in turns(job, replies, lambda: last[0]()):
        last[:] = [step()]


def blocks(job: Job) -> tuple[np.ndarray, np.ndarray]:
    """train.bin as (blocks, T), and the order in which est-train reads them in its first epoch."""
    tokens = np.memmap(os.path.join(job.folder, "train.bin"), np.uint16, "r")
    found = tokens[: len(tokens) // job.seq_len * job.seq_len].reshape(-1, job.seq_len)
    return found, np.random.Generator(np.random.PCG64([job.seed, 0])).permutation(len(found))


def micro_batches(job: Job) -> Iterator[Tensor]:
    """(B, T) int64 token blocks on the device, without end."""
    found, order = blocks(job)
    at = 0
    while True:
        numbers = [order[i % len(order)] for i in range(at, at + job.micro_batch)]
        tokens = torch.from_numpy(found[numbers].astype(np.int64))
        yield tokens.pin_memory().to(job.device, non_blocking=True) if job.device == "cuda" else tokens
        at += job.micro_batch


def decay_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Matrices and embeddings decay, biases and norms do not."""
    parameters = list(model.parameters())
    matrices, vectors = [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
    return [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]


def bare_loop(job: Job, replies: TextIO, model: torch.nn.Module, loss_of: Callable[[Tensor], Tensor]) -> None:
    """Serve the plainest loop there is: `loss_of` a micro-batch, backward, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(decay_groups(model), lr=LR, **ADAMW)
    batches = micro_batches(job)

    def step() -> Callable[[], float]:
        total = torch.zeros((), device=job.device)
        for _ in range(job.micro_steps):
            with job.autocast():
                loss = loss_of(next(batches)) / job.micro_steps
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.item

    serve(job, replies, step)


def peak_memory_gb(job: Job) -> float:
    """Most memory so far, in 1e9 bytes: allocated on the GPU, or resident in this process on a CPU."""
    if job.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def environment(job: Job) -> dict[str, Any]:
    """Device, threads and versions that this worker really has."""
    about: dict[str, Any] = {"device": torch.cuda.get_device_name() if job.device == "cuda" else "cpu"}
    about |= {"threads": torch.get_num_threads(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            about[name] = version(name)
        except PackageNotFoundError:
            continue
    return about
