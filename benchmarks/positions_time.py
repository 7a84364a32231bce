"""Time of a step whose loss is the mean over half of the predictions (stage.p_t=0.5) against one over all of them.

    python benchmarks/positions_time.py                          # CPU: one thread, CPU time, about four minutes
    python benchmarks/positions_time.py --models gpt2_tiny --rounds 20 --json positions.json

Stage 2 (rates 0.5, all layers) and the complete model, each with p_t 1 and 0.5. In each round every one takes two steps
on the same tokens, in a shuffled order and its reverse: draw, forward, backward, clipping, fused AdamW. Reported are
medians of the ratios p_t=0.5 / p_t=1 inside a round with a 95 % interval, and the ideal, the ratio of the ledger's
`total` FLOPs. What is beside the ledger, the optimizer above all, takes as long at any p_t.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measure import GPT2, GPT2_TINY, SAMPLED, SEED, Case, clock, environment, paired_ratio
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from est_cli.config import OptimConfig
from est_cli.distributed.device import keep_freed_memory
from est_cli.est import IndexGenerator, SamplingRates, apply_est, draw_positions, sample_sizes, training_flops
from est_cli.est.sizes import DEFAULTS
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import LmLoss, target_count
from est_cli.training.optim import build_optimizer, update

MODELS = {"gpt2_tiny": GPT2_TINY, "gpt2": GPT2}
STAGES = {"stage 2": SAMPLED["stage 2"], "full": SamplingRates()}
SHARES = (1.0, 0.5)
OPTIM = OptimConfig()


def at(stage: str, p_t: float) -> SamplingRates:
    rates = STAGES[stage]
    return SamplingRates(rates.p_h, rates.p_m, rates.p_l, p_t=p_t)


class Bench:
    """A model with its optimizer."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.model = build_model(case.model, hf_config(case.model), SEED).to(device).train()
        self.spec, self.device = spec_of(self.model), device
        self.handle, self.generator = apply_est(self.model, self.spec), IndexGenerator(self.spec, SEED)
        self.optimizer, self.lm_loss = build_optimizer(self.model, OPTIM), LmLoss()

    def seconds(self, rates: SamplingRates, number: int, tokens: Tensor) -> float:
        """Of one optimizer step on tokens (B, T)."""
        begin = clock(self.device)
        self.handle.activate(self.generator.draw(number, rates))
        drawn = draw_positions(SEED, number, torch.arange(len(tokens)), tokens.shape[1], rates.p_t)
        drawn = None if drawn is None else drawn.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.lm_loss(self.model, tokens, target_count(tokens, drawn), drawn=drawn)
        loss.backward()
        update(self.optimizer, OPTIM.lr, OPTIM.grad_clip, loss.detach())
        return clock(self.device) - begin


def compare(case: Case, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """A line for each stage."""
    bench, rng = Bench(case, device), random.Random(SEED)
    ways = [(stage, p_t) for stage in STAGES for p_t in SHARES]
    times: dict[tuple[str, float], list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        tokens = torch.randint(bench.spec.vocab_size, case.shape, device=device)
        order = rng.sample(ways, len(ways))
        taken = dict.fromkeys(ways, 0.0)
        for way in (*order, *order[::-1]):
            taken[way] += bench.seconds(at(*way), number, tokens) / 2
        for way in ways:
            times[way].append(taken[way])
    lines = []
    for stage in STAGES:
        all_of_them, half = (times[stage, p_t][1:] for p_t in SHARES)  # the first round warms up
        ratio, low, high = paired_ratio(half, all_of_them)
        flops = [
            training_flops(bench.spec, sample_sizes(bench.spec, at(stage, p_t), DEFAULTS), *case.shape).total
            for p_t in SHARES
        ]
        line = {"stage": stage, "s": median(all_of_them), "ratio": ratio, "low": low, "high": high}
        lines.append(line | {"ideal": flops[1] / flops[0]})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report: dict[str, Any] = {"environment": environment(device), "rounds": arguments.rounds, "results": {}}
    table = Table("model", "step", "s at p_t=1", "p_t=0.5 / 1", "95 % interval", "ideal", box=box.SIMPLE_HEAD)
    for name in arguments.models:
        report["results"][name] = compare(MODELS[name], device, arguments.rounds)
        for line in report["results"][name]:
            numbers = (f"{line['s']:.3f}", f"{line['ratio']:.3f}", f"{line['low']:.3f} - {line['high']:.3f}")
            table.add_row(name, line["stage"], *numbers, f"{line['ideal']:.3f}")
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2, default=str) + "\n", "utf-8")


if __name__ == "__main__":
    main()
