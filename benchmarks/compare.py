"""Tokens per second against the alternatives, in one run: same shapes, tokens, micro-batch, precision, optimizer.

    make bench                                                     # CPU, GPT-2 shape, one thread: about 5 minutes
    python benchmarks/compare.py --shape cpu-llama                 # with litgpt, whose environment it makes
    python benchmarks/compare.py --nanogpt ~/nanoGPT/train.py      # GPT-2 shapes: any nanoGPT-style script

On a GPU, in pieces of a few minutes each (bf16; what is not in --only does not run):

    python benchmarks/compare.py --shape gpu-gpt2 --only ours-dense hf hf-compiled trainer
    python benchmarks/compare.py --shape gpu-gpt2 --only ours-dense nanogpt --nanogpt ~/nanoGPT/train.py
    python benchmarks/compare.py --shape gpu-gpt2 --only ours-dense ours-stage1 ours-stage2 ours-stage3
    python benchmarks/compare.py --shape gpu-llama --only ours-dense ours-stage1 ours-stage2
    python benchmarks/compare.py --shape gpu-llama --only ours-dense hf hf-compiled
    python benchmarks/compare.py --shape gpu-llama --only ours-dense trainer litgpt

Contenders: est-train's own step (dense; stages 1 and 2 at rates 0.5, stage 3), Hugging Face in a bare loop (on a GPU
also compiled as a whole), Hugging Face Trainer, litgpt (Llama shapes), a nanoGPT-style train.py (GPT-2 shapes). Each
is a process of its own that keeps its defaults; only one works at a time. A round is a turn of `--steps` steps for
each, in a shuffled order that every second round reverses. `--sequential` (large shapes) starts, measures and ends
them in turn instead, a round each time. Ratios are medians of those inside rounds, with 95 % bootstrap intervals.

On a CPU one thread works and its CPU time counts, which neighbours disturb least; `--threads 2` takes wall-clock time
and needs a quiet machine. glibc is told to keep freed memory, for all alike (see stage_time.py, which also has the
finer measurement of the stages, inside one process: it is the gate where the two disagree).

Gates: our dense speed reaches that of the Hugging Face loop and of Trainer (on a GPU also of the compiled and the
nanoGPT-style ones), and the time of stages 1 and 2 stays within the limit over their ideal, the ratio of FLOPs. Exits
with 1 if one fails or a contender dies.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders.environment import litgpt_python
from contenders.process import Contender, worker_environment
from contenders.protocol import Job
from contenders.rounds import Measured, Plan, measure
from measure import CASES, MALLOC, SEED, Case, environment
from results import DENSE, STAGES, as_json, failed, rivals, show, speeds, stages
from rich.console import Console

from est_cli.config import ModelConfig, Precision
from est_cli.distributed.hardware import peak_flop_per_s

OURS = (DENSE, *STAGES)
NAMES = (*OURS, "hf", "hf-compiled", "trainer", "litgpt", "nanogpt")
MODULES = {**dict.fromkeys(OURS, "ours"), "hf": "hf", "hf-compiled": "hf", "trainer": "trainer", "litgpt": "lit"}
EAGER = {"hf", "trainer"}
GATED = {"cpu": {"hf", "trainer"}, "cuda": {"hf", "hf-compiled", "trainer", "nanogpt"}}
TRAIN_TOKENS = 4_000_000


@dataclass(frozen=True)
class Shape:
    case: Case
    micro_batch: int
    """Sequences per forward pass."""
    device: str
    sequential: bool = False
    """The contenders do not fit side by side."""


_CPU_GPT2, _CPU_LLAMA = CASES["cpu"]
_GPU_GPT2, _GPU_LLAMA = CASES["cuda"]
_TINY = Case(ModelConfig("gpt2", "gpt2", 512, 64, 2, 4, max_positions=32), seq_len=32, tokens=128, limit=1.05)
SHAPES = {
    "tiny": Shape(_TINY, 2, "cpu"),
    "cpu-gpt2": Shape(replace(_CPU_GPT2, tokens=1024), 4, "cpu"),
    "cpu-llama": Shape(replace(_CPU_LLAMA, tokens=1024), 4, "cpu"),
    "gpu-gpt2": Shape(replace(_GPU_GPT2, tokens=16384), 16, "cuda"),
    "gpu-llama": Shape(replace(_GPU_LLAMA, tokens=16384), 8, "cuda", sequential=True),
}


def job_of(shape: Shape, folder: str, threads: int) -> Job:
    """What is the same for all contenders."""
    model, case = shape.case.model, shape.case
    assert model.vocab_size and model.hidden_size and model.num_layers and model.num_heads
    return Job(
        family=case.family,
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads or model.num_heads,
        mlp_size=model.mlp_size or 4 * model.hidden_size,
        seq_len=case.seq_len,
        tokens=case.tokens,
        micro_batch=shape.micro_batch,
        device=shape.device,
        precision="bf16" if shape.device == "cuda" else "fp32",
        compile=shape.device == "cuda",
        cpu_time=shape.device == "cpu" and threads == 1,
        threads=threads,
        seed=SEED,
        folder=folder,
        started=0.0,
    )


def contender(name: str, job: Job, arguments: argparse.Namespace) -> Contender | None:
    """How `name` is started; None if it cannot be, which has been told."""
    if name == "nanogpt":
        return Contender(name, name, replace(job, script=str(arguments.nanogpt), warm_up=arguments.warm_up))
    if name == "litgpt":
        python = arguments.litgpt_python or litgpt_python()
        return Contender(name, "lit", job, str(python)) if python else None
    stage = int(name[-1]) if name in STAGES else 0
    return Contender(name, MODULES[name], replace(job, compile=job.compile and name not in EAGER, stage=stage))


def write_tokens(folder: Path, vocab_size: int) -> None:
    """Random token ids for all contenders, uint16: train.bin and val.bin."""
    rng = np.random.default_rng(SEED)
    for name, count in (("train.bin", TRAIN_TOKENS), ("val.bin", TRAIN_TOKENS // 10)):
        rng.integers(vocab_size, size=count, dtype=np.uint16).tofile(folder / name)


def main() -> int:
    arguments = _arguments()
    shape, console = arguments.shape, Console()
    with tempfile.TemporaryDirectory(prefix="est-bench-") as folder, console.status("starting") as status:
        job = job_of(shape, folder, arguments.threads)
        write_tokens(Path(folder), job.vocab_size)
        wanted = [found for name in arguments.only if (found := contender(name, job, arguments))]
        plan = Plan(
            rounds=arguments.rounds,
            steps=arguments.steps,
            warm_up=arguments.warm_up,
            sequential=arguments.sequential,
            limit_s=arguments.limit_s,
            environment=worker_environment(job, MALLOC),
            progress=status.update,
        )
        measured, dead = measure(wanted, plan)
    return _report(console, arguments, job, measured, dead)


def _report(
    console: Console, arguments: argparse.Namespace, job: Job, measured: dict[str, Measured], dead: dict[str, str]
) -> int:
    """Tables, JSON and PNG; the exit code."""
    shape, device = arguments.shape, torch.device(job.device)
    peak = peak_flop_per_s(device, Precision(job.precision))
    lines, ours = speeds(shape.case, measured, peak), stages(shape.case, measured)
    against = rivals(measured, GATED[job.device])
    clock = "CPU second" if job.cpu_time else "second"
    about = {**environment(device), "threads": job.threads, "clock": "CPU time" if job.cpu_time else "wall"}
    show(console, lines, against, ours)
    told = ", ".join(f"{name} {value}" for name, value in about.items())
    console.print(f"{arguments.shape_name}, {job.tokens} tokens per step, tokens per {clock}; {told}", highlight=False)
    for name, reason in dead.items():
        print(f"compare.py: {name} {reason}", file=sys.stderr)
    if arguments.json:
        settings = {key: getattr(arguments, key) for key in ("rounds", "steps", "warm_up", "sequential")}
        whole: dict[str, Any] = {"shape": arguments.shape_name, "environment": about, "peak_flop_per_s": peak}
        whole |= {"settings": {**settings, "micro_batch": job.micro_batch}, "case": asdict(shape.case)}
        whole |= {"contenders": as_json(measured, lines), "dead": dead}
        whole |= {"dense_against": [asdict(of) for of in against], "stages": [asdict(of) for of in ours]}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    if arguments.png:
        from chart import draw  # matplotlib takes a second, for those who want a picture

        draw(arguments.png, arguments.shape_name, clock, lines, ours)
    return 1 if dead or (arguments.gates and [*failed(against), *failed(ours)]) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="gpu-gpt2" if cuda else "cpu-gpt2", dest="shape_name")
    add("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"contenders: {', '.join(NAMES)}")
    add("--tokens", type=int, help="tokens per step")
    add("--micro-batch", type=int, help="sequences per forward pass")
    add("--rounds", type=int, help="default 10 on a CPU, 12 on a GPU, 3 with --sequential")
    add("--steps", type=int, help="steps of each turn; default 2 on a CPU, 10 on a GPU")
    add("--warm-up", type=int, help="steps after the first that do not count; default 1 on a CPU, 10 on a GPU")
    add("--sequential", action=argparse.BooleanOptionalAction, help="one process at a time; default for large shapes")
    add("--threads", type=int, help="default 1 on a CPU (CPU time counts), all on a GPU")
    add("--nanogpt", type=Path, metavar="PATH", help="a nanoGPT-style train.py")
    add(
        "--litgpt-python", type=Path, metavar="PATH", help="a Python that has litgpt; default: .bench/litgpt, made here"
    )
    add("--limit-s", type=float, default=900.0, help="longest wait for an answer (default 900)")
    add("--json", type=Path, metavar="PATH")
    add("--png", type=Path, metavar="PATH")
    add("--gates", action=argparse.BooleanOptionalAction, default=True, help="exit with 1 if a gate fails")
    arguments = parser.parse_args()
    _complete(arguments, parser)
    return arguments


def _complete(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Fill in the defaults that depend on the shape; end with a message where something does not fit."""
    shape = SHAPES[arguments.shape_name]
    case = replace(shape.case, tokens=arguments.tokens or shape.case.tokens)
    arguments.shape = shape = replace(shape, case=case, micro_batch=arguments.micro_batch or shape.micro_batch)
    cuda, llama = shape.device == "cuda", case.family == "llama"
    if arguments.sequential is None:
        arguments.sequential = shape.sequential
    defaults = {
        "rounds": 3 if arguments.sequential else 12 if cuda else 10,
        "steps": 10 if cuda else 2,
        "warm_up": 10 if cuda else 1,
        "threads": (os.cpu_count() or 1) if cuda else 1,
    }
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    fits = {"hf-compiled": cuda, "litgpt": llama, "nanogpt": not llama and arguments.nanogpt is not None}
    arguments.only = arguments.only or [name for name in NAMES if fits.get(name, True)]
    wrong = [name for name in arguments.only if not fits.get(name, True)]
    if wrong:
        parser.error(f"--only {wrong[0]}: does not fit --shape {arguments.shape_name}, or --nanogpt PATH is missing")
    if arguments.nanogpt and not arguments.nanogpt.is_file():
        parser.error(f"--nanogpt: there is no file {arguments.nanogpt}")
    if case.tokens % (case.seq_len * shape.micro_batch):
        parser.error(f"--tokens must be a multiple of {case.seq_len} (the sequences' length) x {shape.micro_batch}")
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1 or arguments.warm_up < 0:
        parser.error("--rounds, --steps and --threads must be positive")
    if any(path and not path.parent.is_dir() for path in (arguments.json, arguments.png)):
        parser.error("--json, --png: there is no such folder")
    if cuda and not torch.cuda.is_available():
        parser.error(f"--shape {arguments.shape_name}: torch finds no GPU here")


if __name__ == "__main__":
    sys.exit(main())
