"""Time of a sampled step against its ideal, and of the complete model under EST against plain Hugging Face.

    python benchmarks/stage_time.py                               # CPU: one thread, about six minutes
    python benchmarks/stage_time.py --rounds 30 --families llama --json llama.json
    python benchmarks/stage_time.py --tokens 1024 --micro-batches 4      # with and without packed copies

One step is draw, activate, forward, backward, clipping and fused AdamW. In each round every variant takes two steps on
the same tokens: stage 1 and stage 2 (rates 0.5, drawn anew), the complete model under EST, and an untouched Hugging
Face model. Reported are medians of the ratios inside a round, with a 95 % bootstrap interval:

- stage 1 and 2: time / time of the complete model, held against the ideal, the ratio of the ledger's `total` FLOPs
- with several micro-batches, stages 1 and 2 twice: as est-train runs them, on copies packed once for all micro-batches
  (EstHandle.pack), and gathered anew in each ("not packed", without a gate)
- p = 1: time of the complete model under EST / time of the untouched model, whose interval must contain 1.00

What keeps the ratios clean:

- all variants run in one process; a round is a shuffled order and its reverse, so that a machine that slows down or
  speeds up during a round hits all variants alike
- the untouched model shares parameters and optimizer with the wrapped one: both read the same memory
- on a CPU one thread runs and its CPU time counts; on a GPU (bf16 autocast, layers compiled) synchronised wall time
- the script starts itself anew with glibc told to keep freed memory (MALLOC_MMAP_MAX_, MALLOC_TRIM_THRESHOLD_), for
  all variants alike: otherwise every large tensor costs page faults, which hit the complete model hardest and
  flatter the sampled stages

Exits with 1 if a gate fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch
from measure import CASES, MALLOC, RATES, SAMPLED, SEED, Case, clock, environment, paired_ratio
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.config import OptimConfig
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, apply_est, training_flops
from est_cli.est.sizes import DEFAULTS, full_sizes, sample_sizes
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, target_count
from est_cli.training.optim import Optimizer, build_optimizer, update

VARIANTS = (*RATES, "plain")
APART = {f"{stage}, not packed": rates for stage, rates in SAMPLED.items()}
WARM_UP_ROUNDS = 1
OPTIM = OptimConfig()


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    family: str
    what: str
    time_s: float
    """Median seconds per step."""
    ratio: float
    low: float
    high: float
    """The 95 % interval of the ratio."""
    ideal: float
    passed: bool


@dataclass(frozen=True)
class Bench:
    """A wrapped model and an untouched one over the same parameters."""

    device: torch.device
    spec: ModelSpec
    handle: EstHandle
    generator: IndexGenerator
    wrapped: PreTrainedModel
    plain: PreTrainedModel
    optimizer: Optimizer
    lm_loss: LmLoss
    micro_batches: int

    def step(self, variant: str, number: int, tokens: Tensor) -> None:
        """One optimizer step on tokens (B, T) with the subnetwork of step `number`."""
        model = self.plain
        rates = {**RATES, **APART}.get(variant)
        if rates is not None:
            model = self.wrapped
            self.handle.activate(self.generator.draw(number, rates))
        if variant in SAMPLED and self.micro_batches > 1:
            self.handle.pack()
        losses = []
        for part in tokens.chunk(self.micro_batches):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                loss = self.lm_loss(model, part, target_count(tokens))
            loss.backward()
            losses.append(loss.detach())
        self.handle.unpack()
        update(self.optimizer, OPTIM.lr, OPTIM.grad_clip, torch.stack(losses).sum())

    @property
    def variants(self) -> tuple[str, ...]:
        return (*VARIANTS, *APART) if self.micro_batches > 1 else VARIANTS


def build(case: Case, device: torch.device, compiled: bool, micro_batches: int) -> Bench:
    """The two models on `device`; `compiled`: layer by layer, as est-train does it."""
    plain = build_model(case.model, hf_config(case.model), SEED).to(device).train()
    wrapped = deepcopy(plain, {id(parameter): parameter for parameter in plain.parameters()})
    spec = spec_of(wrapped)
    handle = apply_est(wrapped, spec)
    if compiled:
        for layer in (*handle.layers, *plain.get_submodule(spec.layers).children()):
            layer.compile(dynamic=False)
    optimizer = build_optimizer(plain, OPTIM)
    lm_loss = LmLoss(pad_to=128 if device.type == "cuda" else 1, compiled=compiled)
    return Bench(device, spec, handle, IndexGenerator(spec, SEED), wrapped, plain, optimizer, lm_loss, micro_batches)


def measure(case: Case, bench: Bench, rounds: int, progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds per step of each variant in each round, the warm-up left out."""
    seconds: dict[str, list[float]] = {variant: [] for variant in bench.variants}
    rng = random.Random(SEED)
    for number in range(WARM_UP_ROUNDS + rounds):
        progress(f"{case.family}: round {number + 1} of {WARM_UP_ROUNDS + rounds}")
        tokens = torch.randint(bench.spec.vocab_size, case.shape, device=bench.device)
        order = rng.sample(bench.variants, len(bench.variants))
        there = _timed(bench, order, 2 * number, tokens)
        back = _timed(bench, order[::-1], 2 * number + 1, tokens)
        for variant in bench.variants:
            seconds[variant].append((there[variant] + back[variant]) / 2)
    return {variant: times[WARM_UP_ROUNDS:] for variant, times in seconds.items()}


def _timed(bench: Bench, order: list[str], number: int, tokens: Tensor) -> dict[str, float]:
    """Seconds of one step of each variant, taken in this order."""
    seconds = {}
    for variant in order:
        begin = clock(bench.device)
        bench.step(variant, number, tokens)
        seconds[variant] = clock(bench.device) - begin
    return seconds


def results(case: Case, spec: ModelSpec, seconds: dict[str, list[float]]) -> list[Result]:
    """The table's lines of one case."""
    lines = []
    for stage in (stage for stage in (*SAMPLED, *APART) if stage in seconds):
        ratio, low, high = paired_ratio(seconds[stage], seconds["full"])
        ideal = ideal_ratio(case, spec, stage)
        passed = stage in APART or ratio / ideal <= case.limit
        lines.append(Result(case.family, stage, median(seconds[stage]), ratio, low, high, ideal, passed))
    ratio, low, high = paired_ratio(seconds["full"], seconds["plain"])
    passed = low <= 1.0 <= high
    return [*lines, Result(case.family, "p = 1", median(seconds["full"]), ratio, low, high, 1.0, passed)]


def ideal_ratio(case: Case, spec: ModelSpec, stage: str) -> float:
    """FLOPs of a step of `stage` / FLOPs of a step of the complete model."""
    sampled = training_flops(spec, sample_sizes(spec, {**SAMPLED, **APART}[stage], DEFAULTS), *case.shape)
    return sampled.total / training_flops(spec, full_sizes(spec), *case.shape).total


def table(lines: list[Result], cases: list[Case]) -> Table:
    """What the terminal shows; fits 80 columns."""
    limits = {case.family: f"<= {case.limit:.2f}" for case in cases}
    columns = ("step", "s", "ratio", "95 % interval", "ideal", "/ ideal", "gate", "holds")
    shown = Table(*columns, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for line in lines:
        numbers = (f"{line.time_s:.3f}", f"{line.ratio:.3f}", f"{line.low:.3f} - {line.high:.3f}", f"{line.ideal:.3f}")
        gate = limits[line.family] if line.what in SAMPLED else "-" if line.what in APART else "has 1.00"
        holds = "yes" if line.passed else "[bold red]NO"
        shown.add_row(f"{line.family} {line.what}", *numbers, f"{line.ratio / line.ideal:.3f}", gate, holds)
    return shown


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds; 10 or more for a gate (default 12)")
    parser.add_argument("--tokens", type=int, help="tokens per step (default 1024 on a CPU, 16384 on a GPU)")
    parser.add_argument("--micro-batches", type=int, default=1, help="forward passes of a step (default 1)")
    parser.add_argument("--families", nargs="+", choices=["gpt2", "llama"], default=["gpt2", "llama"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile layers (default: on a GPU)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write results and environment there")
    arguments = parser.parse_args()
    if arguments.compile is None:
        arguments.compile = arguments.device == "cuda"
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here")
    lengths = [case.seq_len for case in CASES[arguments.device] if case.family in arguments.families]
    if arguments.rounds < 1 or any((arguments.tokens or length) % length for length in lengths):
        parser.error(f"--rounds must be positive and --tokens a multiple of {max(lengths)}")
    return arguments


def _keep_freed_memory() -> None:
    """Start this process anew with MALLOC in its environment: glibc reads that only at the start."""
    if platform.libc_ver()[0] == "glibc" and not os.environ.keys() >= MALLOC.keys():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **MALLOC})


def main() -> int:
    _keep_freed_memory()
    arguments = _arguments()
    torch.set_num_threads(1)
    device, console = torch.device(arguments.device), Console()
    cases = [case for case in CASES[arguments.device] if case.family in arguments.families]
    cases = [replace(case, tokens=arguments.tokens or case.tokens) for case in cases]
    lines: list[Result] = []
    for case in cases:
        with console.status(case.family) as status:
            bench = build(case, device, arguments.compile, arguments.micro_batches)
            lines += results(case, bench.spec, measure(case, bench, arguments.rounds, status.update))
    about = environment(device)
    shape = {"micro_batches": arguments.micro_batches, "compiled": arguments.compile}
    report = {"environment": about, "rounds": arguments.rounds, **shape}
    console.print(table(lines, cases))
    console.print(", ".join(f"{name} {value}" for name, value in {**report, **about}.items() if name != "environment"))
    if arguments.json is not None:
        whole = {**report, "cases": [asdict(case) for case in cases], "results": [asdict(line) for line in lines]}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n", "utf-8")
    return 0 if all(line.passed for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
