"""What a step costs with each optimizer and each treatment of what was not sampled, against plain AdamW.

    python benchmarks/optim_time.py                  # GPT-2 and Llama of width 512, CPU: one thread, some minutes
    python benchmarks/optim_time.py --tokens 4096 --rounds 10

One step is draw, activate, forward, backward, clipping and the update. In each round every way takes two steps of each
stage on the same tokens, in a shuffled order and its reverse, in one process; all share one model, and each has moments
of its own. Reported are medians of time / time of AdamW in the same stage and round, with a 95 % bootstrap interval. On
a CPU one thread runs and its CPU time counts, with glibc told to keep freed memory as est-train tells it.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
from dataclasses import dataclass, replace
from statistics import median

import torch
from measure import CASES, MALLOC, RATES, SEED, Case, clock, environment, paired_ratio
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.config import OptimConfig, OptimName, SkippedLayers, UnsampledRows
from est_cli.est import EstHandle, IndexGenerator, apply_est, reached_parts
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, target_count
from est_cli.training.optim import Optimizer, build_optimizer, update

PLAIN = "adamw"
WAYS = {
    PLAIN: OptimConfig(),
    "unsampled_rows=frozen": OptimConfig(unsampled_rows=UnsampledRows.frozen),
    "skipped_layers=zero_grad": OptimConfig(skipped_layers=SkippedLayers.zero_grad),
    "optim=muon": OptimConfig(name=OptimName.muon),
}
WARM_UP_ROUNDS = 1


@dataclass(frozen=True)
class Bench:
    """A wrapped model and an optimizer for each way."""

    device: torch.device
    handle: EstHandle
    generator: IndexGenerator
    model: PreTrainedModel
    optimizers: dict[str, Optimizer]
    lm_loss: LmLoss

    def step(self, way: str, stage: str, number: int, tokens: Tensor) -> float:
        """Seconds of one optimizer step on tokens (B, T) with the subnetwork of step `number`."""
        optim, begin = WAYS[way], clock(self.device)
        drawn = self.generator.draw(number, RATES[stage])
        self.handle.activate(drawn)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.lm_loss(self.model, tokens, target_count(tokens))
        loss.backward()
        parts = reached_parts(self.handle, [drawn]) if optim.unsampled_rows is UnsampledRows.frozen else ()
        update(self.optimizers[way], optim.lr, optim.grad_clip, loss.detach(), parts)
        return clock(self.device) - begin


def build(case: Case, device: torch.device) -> Bench:
    model = build_model(case.model, hf_config(case.model), SEED).to(device).train()
    handle = apply_est(model, spec_of(model))
    optimizers = {way: build_optimizer(model, optim, handle) for way, optim in WAYS.items()}
    lm_loss = LmLoss(pad_to=128 if device.type == "cuda" else 1)
    return Bench(device, handle, IndexGenerator(handle.spec, SEED), model, optimizers, lm_loss)


def measure(case: Case, bench: Bench, rounds: int) -> dict[tuple[str, str], list[float]]:
    """(stage, way) -> seconds per step in each round, the warm-up left out."""
    turns = [(stage, way) for stage in RATES for way in WAYS]
    seconds: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    rng = random.Random(SEED)
    for number in range(WARM_UP_ROUNDS + rounds):
        tokens = torch.randint(bench.handle.spec.vocab_size, case.shape, device=bench.device)
        order = rng.sample(turns, len(turns))
        there = {turn: bench.step(turn[1], turn[0], 2 * number, tokens) for turn in order}
        for turn in reversed(order):
            back = bench.step(turn[1], turn[0], 2 * number + 1, tokens)
            seconds[turn].append((there[turn] + back) / 2)
    return {turn: times[WARM_UP_ROUNDS:] for turn, times in seconds.items()}


def show(case: Case, seconds: dict[tuple[str, str], list[float]]) -> None:
    for (stage, way), times in seconds.items():
        ratio, low, high = paired_ratio(times, seconds[stage, PLAIN])
        line = f"{case.family} {stage:8} {way:25} {median(times):7.3f} s"
        print(line if way == PLAIN else f"{line}  {ratio:.3f} [{low:.3f}, {high:.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="measured rounds (default 10)")
    parser.add_argument("--tokens", type=int, help="tokens per step (default 2048 on a CPU, 16384 on a GPU)")
    parser.add_argument("--families", nargs="+", choices=["gpt2", "llama"], default=["gpt2", "llama"])
    arguments = parser.parse_args()
    if platform.libc_ver()[0] == "glibc" and not os.environ.keys() >= MALLOC.keys():  # it reads them at the start only
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **MALLOC})
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for case in CASES[device.type]:
        if case.family in arguments.families:
            case = replace(case, tokens=arguments.tokens or case.tokens)
            show(case, measure(case, build(case, device), arguments.rounds))
    print(", ".join(f"{name} {value}" for name, value in environment(device).items()))


if __name__ == "__main__":
    main()
