"""Time of a sampled step against its ideal, and of the complete model under EST against plain Hugging Face.

    make bench                                                    # CPU: one thread, about five minutes
    python benchmarks/stage_time.py --rounds 30 --families llama --json llama.json

One step is draw, activate, forward, backward, clip and fused AdamW. In each round every variant takes one step on the
same tokens: stage 1 and stage 2 (rates 0.5, drawn anew), the complete model under EST, and an untouched Hugging Face
model. Reported are medians of the ratios inside a round with a 95 % bootstrap interval:

- stage 1 and 2: time / time of the complete model, held against the ideal, the ratio of the ledger's `total` FLOPs
- p = 1: time of the complete model under EST / time of the untouched model, whose interval must contain 1.00

What keeps the ratios clean: all variants run in one process; the order is shuffled and each order is followed by its
reverse; the untouched model shares parameters and optimizer with the wrapped one, so that both read the same memory;
on the CPU one thread runs and its CPU time counts, on a GPU synchronised wall time. The script restarts itself with
glibc told to keep freed memory (MALLOC_*), for all variants alike: otherwise every large tensor is paid for in page
faults, and these vary with the load of the machine.

Exits with 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.arch import spec_of
from est_cli.checkpoint.environment import git_commit, versions
from est_cli.config import Family, ModelConfig, OptimConfig
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingRates, apply_est, training_flops
from est_cli.est.sizes import DEFAULTS, full_sizes, sample_sizes
from est_cli.evaluate import next_token_loss, target_count
from est_cli.models import build_model, hf_config
from est_cli.optim import build_optimizer

STAGES = {"stage 1": SamplingRates(0.5, 0.5, 0.5), "stage 2": SamplingRates(0.5, 0.5, 1.0), "full": SamplingRates()}
VARIANTS = (*STAGES, "plain")
WARM_UP_ROUNDS = 1
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
SEED = 0


@dataclass(frozen=True)
class Case:
    """A model and the largest achieved / ideal that passes."""

    model: ModelConfig
    seq_len: int
    tokens: int
    """Tokens per step."""
    limit: float

    @property
    def family(self) -> str:
        return self.model.family.value


def _gpt2(width: int, layers: int, heads: int, vocab: int, positions: int) -> ModelConfig:
    return ModelConfig("gpt2", Family.gpt2, vocab, width, layers, heads, max_positions=positions)


def _llama(width: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, positions: int) -> ModelConfig:
    return ModelConfig("llama", Family.llama, vocab, width, layers, heads, kv, mlp, positions)


CASES = {
    "cpu": (
        Case(_gpt2(512, 8, 8, 8192, 256), seq_len=256, tokens=1024, limit=1.05),
        Case(_llama(512, 8, 8, 4, 1408, 8192, 256), seq_len=256, tokens=1024, limit=1.10),
    ),
    "cuda": (  # GPT-2 base and TinyLlama
        Case(_gpt2(768, 12, 12, 50304, 1024), seq_len=1024, tokens=16384, limit=1.10),
        Case(_llama(2048, 22, 32, 4, 5632, 32000, 2048), seq_len=2048, tokens=16384, limit=1.10),
    ),
}


@dataclass(frozen=True)
class Result:
    """One line of the table; times are seconds per step."""

    family: str
    what: str
    time_s: float
    ratio: float
    low: float
    high: float
    """95 % interval of the ratio."""
    ideal: float
    passed: bool


@dataclass(frozen=True)
class Bench:
    """A wrapped model and an untouched one over the same parameters."""

    device: torch.device
    spec: ModelSpec
    handle: EstHandle
    wrapped: PreTrainedModel
    plain: PreTrainedModel
    optimizer: torch.optim.Optimizer

    def step(self, variant: str, number: int, tokens: Tensor) -> None:
        """One optimizer step on tokens (B, T), drawing the subnetwork of step `number`."""
        model = self.plain if variant == "plain" else self.wrapped
        if variant != "plain":
            self.handle.activate(IndexGenerator(self.spec, SEED).draw(number, STAGES[variant]))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = model(input_ids=tokens, use_cache=False).logits
        (next_token_loss(logits, tokens) / target_count(tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def build(case: Case, device: torch.device, compiled: bool) -> Bench:
    """The pair of models in training mode on `device`; `compiled`: layer by layer, as est-train does."""
    plain = build_model(case.model, hf_config(case.model), SEED).to(device).train()
    wrapped = deepcopy(plain, {id(parameter): parameter for parameter in plain.parameters()})
    spec = spec_of(wrapped)
    handle = apply_est(wrapped, spec)
    if compiled:
        for layer in (*handle.layers, *plain.get_submodule(spec.layers).children()):
            layer.compile()
    return Bench(device, spec, handle, wrapped, plain, build_optimizer(plain, OptimConfig(lr=1e-4)))


def measure(case: Case, bench: Bench, rounds: int, progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds of each variant's step in each round, without the warm-up."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    rng = random.Random(SEED)
    order = list(VARIANTS)
    for number in range(WARM_UP_ROUNDS + rounds):
        progress(f"{case.family}: round {number + 1} of {WARM_UP_ROUNDS + rounds}")
        if number % 2:
            order.reverse()
        else:
            rng.shuffle(order)
        shape = (case.tokens // case.seq_len, case.seq_len)
        tokens = torch.randint(case.model.vocab_size or 0, shape, device=bench.device)
        for variant in order:
            begin = _clock(bench.device)
            bench.step(variant, number, tokens)
            seconds[variant].append(_clock(bench.device) - begin)
    return {variant: times[WARM_UP_ROUNDS:] for variant, times in seconds.items()}


def results(case: Case, spec: ModelSpec, seconds: dict[str, list[float]]) -> list[Result]:
    """The table's lines for one case."""
    lines = []
    for stage in ("stage 1", "stage 2"):
        time_s, ratio, low, high = _compare(seconds[stage], seconds["full"])
        ideal = _ideal(spec, STAGES[stage], case)
        lines.append(Result(case.family, stage, time_s, ratio, low, high, ideal, ratio / ideal <= case.limit))
    time_s, ratio, low, high = _compare(seconds["full"], seconds["plain"])
    return [*lines, Result(case.family, "p = 1", time_s, ratio, low, high, 1.0, low <= 1.0 <= high)]


def _compare(times: list[float], base: list[float]) -> tuple[float, float, float, float]:
    """(median time, median of the paired ratios, the bounds of its 95 % bootstrap interval)."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    rng = random.Random(SEED)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    return median(times), median(ratios), medians[100], medians[-101]


def _ideal(spec: ModelSpec, rates: SamplingRates, case: Case) -> float:
    batch = case.tokens // case.seq_len
    sampled = training_flops(spec, sample_sizes(spec, rates, DEFAULTS), batch, case.seq_len)
    return sampled.total / training_flops(spec, full_sizes(spec), batch, case.seq_len).total


def _clock(device: torch.device) -> float:
    """CPU seconds of this process, or wall seconds once the GPU is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    threads = {"threads": torch.get_num_threads(), "clock": "wall" if gpu else "CPU time"}
    precision = "bf16 autocast" if gpu else "fp32"
    return {"cpu": _cpu_model(), "gpu": gpu, **threads, "precision": precision, "commit": git_commit(), **versions()}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(lines: list[Result], cases: tuple[Case, ...]) -> Table:
    limits = {case.family: case.limit for case in cases}
    shown = Table("model", "what", "s / step", "ratio", "95 % interval", "ideal", "ratio / ideal", "gate", "holds")
    for line in lines:
        gate = "interval holds 1.00" if line.what == "p = 1" else f"<= {limits[line.family]:.2f}"
        interval, share = f"{line.low:.3f} - {line.high:.3f}", f"{line.ratio / line.ideal:.3f}"
        numbers = (f"{line.time_s:.3f}", f"{line.ratio:.3f}", interval, f"{line.ideal:.3f}", share)
        shown.add_row(line.family, line.what, *numbers, gate, "yes" if line.passed else "[bold red]NO")
    return shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds, at least 10 for a gate (12)")
    parser.add_argument("--tokens", type=int, help="tokens per step (1024 on a CPU, 16384 on a GPU)")
    parser.add_argument("--families", nargs="+", choices=["gpt2", "llama"], default=["gpt2", "llama"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile layers (default: on a GPU)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write results and environment there as well")
    return parser.parse_args()


def _keep_freed_memory() -> None:
    """Start this process anew with MALLOC in its environment, which glibc reads only at the start."""
    if platform.libc_ver()[0] == "glibc" and any(name not in os.environ for name in MALLOC):
        os.execve(sys.executable, sys.orig_argv, {**MALLOC, **os.environ})


def main() -> int:
    arguments = _arguments()
    _keep_freed_memory()
    torch.set_num_threads(1)
    device, console = torch.device(arguments.device), Console()
    cases = _cases(arguments)
    lines: list[Result] = []
    for case in cases:
        with console.status(case.family) as status:
            compiled = device.type == "cuda" if arguments.compile is None else arguments.compile
            bench = build(case, device, compiled)
            lines += results(case, bench.spec, measure(case, bench, arguments.rounds, status.update))
    console.print(table(lines, cases))
    about = environment(device)
    console.print(", ".join(f"{key} {value}" for key, value in about.items() if value is not None))
    if arguments.json is not None:
        report = {"environment": about, "cases": [asdict(case) for case in cases], "rounds": arguments.rounds}
        arguments.json.write_text(json.dumps({**report, "results": [asdict(line) for line in lines]}, indent=2) + "\n")
    return 0 if all(line.passed for line in lines) else 1


def _cases(arguments: argparse.Namespace) -> tuple[Case, ...]:
    chosen = [case for case in CASES[arguments.device] if case.family in arguments.families]
    if arguments.tokens is not None:
        chosen = [replace(case, tokens=arguments.tokens) for case in chosen]
    if any(case.tokens % case.seq_len for case in chosen):
        sys.exit(f"--tokens: must be a multiple of the sequence length, {', '.join(str(c.seq_len) for c in chosen)}")
    return tuple(chosen)


if __name__ == "__main__":
    sys.exit(main())
