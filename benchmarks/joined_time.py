"""q, k and v, and gate and up, as one product each against a product for each, forward and backward.

    python benchmarks/joined_time.py              # CPU: one thread, CPU time, some minutes
    python benchmarks/joined_time.py --rounds 30

The weights are the packed ones of a sampled step (rates 0.5) and the whole ones. GPT-2 has one product for q, k and v
as it is, so the shapes are those of Llama in stage_time.py and of TinyLlama. Reported are medians of time of one / time
of several, pair by pair, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from measure import SEED, paired_ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor

SHAPES = {
    "width 512, q k v": (512, (512, 256, 256)),
    "width 512, gate up": (512, (1408, 1408)),
    "TinyLlama, q k v": (2048, (2048, 256, 256)),
    "TinyLlama, gate up": (2048, (5632, 5632)),
}
"""Columns of the input, rows of each weight, of the complete model."""
TOKENS = (64, 256, 1024)


def passes(states: Tensor, weights: list[Tensor], rows: tuple[int, ...], outer: list[Tensor]) -> None:
    """Forward and backward of products that read the same states; one product is split into what each would give."""
    outputs = [torch.nn.functional.linear(states, weight) for weight in weights]
    torch.autograd.backward(outputs if len(outputs) > 1 else outputs[0].split(rows, -1), outer)
    states.grad = None
    for weight in weights:
        weight.grad = None


def seconds(work: tuple[Tensor, list[Tensor], tuple[int, ...], list[Tensor]], repeats: int) -> float:
    begin = time.thread_time()
    for _ in range(repeats):
        passes(*work)
    return (time.thread_time() - begin) / repeats


def ratio(tokens: int, width: int, rows: tuple[int, ...], rounds: int) -> tuple[float, float, float, float]:
    """(milliseconds of several products, one / several and the bounds of its interval)."""
    states = torch.randn(tokens, width, requires_grad=True)
    several = [torch.randn(count, width, requires_grad=True) for count in rows]
    outer = [torch.randn(tokens, count) for count in rows]
    one = [torch.cat(several).detach().requires_grad_()]
    works = [(states, several, rows, outer), (states, one, rows, outer)]
    repeats = max(1, int(2e9 / (6 * tokens * width * sum(rows))))
    times: list[list[float]] = [[], []]
    rng = random.Random(SEED)
    for number in range(rounds + 1):
        for which in rng.sample((0, 1), 2):
            found = seconds(works[which], repeats)
            if number:
                times[which].append(found)
    return 1e3 * min(times[0]), *paired_ratio(times[1], times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    table = Table("products", "tokens", "rate", "ms of several", "one / several", "95 % interval")
    for name, (width, rows) in ((name, SHAPES[name]) for name in arguments.shapes):
        for rate, tokens in [(rate, tokens) for rate in (0.5, 1.0) for tokens in TOKENS]:
            kept = tuple(int(rate * count) for count in rows)
            milliseconds, middle, low, high = ratio(tokens, width, kept, arguments.rounds)
            table.add_row(
                name, str(tokens), str(rate), f"{milliseconds:.2f}", f"{middle:.3f}", f"{low:.3f} - {high:.3f}"
            )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
