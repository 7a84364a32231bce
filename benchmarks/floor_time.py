"""Where the time of a sampled step goes that its FLOPs do not ask for: achieved / ideal, part by part.

    python benchmarks/floor_time.py                          # GPT-2 and Llama of width 512, CPU: one thread, minutes
    python benchmarks/floor_time.py --tokens 256 --micro-batches 1

A step is that of stage_time.py. Each operator's CPU time is taken by itself, in forward pass, backward pass and update:
the least of all rounds, which busy neighbours touch least. A part's points are 100 * (its time in the stage - ideal *
its time in the complete model) / (ideal * all of the complete model): together they are what achieved / ideal lies
above 1, as far as operators go. What Python and autograd do between operators is not in it.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import torch
from measure import CASES, SAMPLED, SEED, Case
from rich.console import Console
from rich.table import Table
from stage_time import Bench, _keep_freed_memory, build, ideal_ratio
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
PARTS = {
    "matrix products, attention": lambda name: name.removesuffix("_backward") in PRODUCTS,
    "rows gathered and scattered": lambda name: name.startswith(("index", "gather", "scatter")),
    "AdamW": lambda name: name.startswith("_fused_adamw"),
    "gradient norm": lambda name: "norm" in name and "layer_norm" not in name,
}
LOSS, OTHER, ALL = "softmax of the loss", "norms, activations, sums at full width", "all operators"
STAGES = (*SAMPLED, "full")


class OperatorTimes(TorchDispatchMode):
    """(part, CPU seconds) of each operator, in their order; what is as wide as `vocabulary` is the loss's."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self.found: list[tuple[str, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.thread_time()
        result = func(*args, **(kwargs or {}))
        spent = time.thread_time() - begin
        name = func.overloadpacket.__name__
        wide = any(isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (self._vocabulary,) for tensor in args)
        part = next((part for part, holds in PARTS.items() if holds(name)), LOSS if wide else OTHER)
        self.found.append((part, spent))
        return result


def measure(case: Case, bench: Bench, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by stage and part. The operators of a stage are the same in each of its steps."""
    least: dict[str, list[tuple[str, float]]] = {}
    rng = random.Random(SEED)
    for number in range(rounds + 1):
        tokens = torch.randint(bench.spec.vocab_size, case.shape)
        for stage in rng.sample(STAGES, len(STAGES)):
            with OperatorTimes(bench.spec.vocab_size) as times:
                bench.step(stage, number, tokens)
            if number:  # the first step makes the moments
                before = least.setdefault(stage, times.found)
                assert [part for part, _ in before] == [part for part, _ in times.found]
                least[stage] = [min(pair) for pair in zip(before, times.found, strict=True)]
    return {stage: by_part(found) for stage, found in least.items()}


def by_part(found: list[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each part, and of all."""
    seconds: dict[str, float] = defaultdict(float)
    for part, spent in found:
        seconds[part] += spent
        seconds[ALL] += spent
    return seconds


def rows(case: Case, bench: Bench, seconds: dict[str, dict[str, float]]) -> Table:
    """The table of one family."""
    ideal = {stage: ideal_ratio(case, bench.spec, stage) for stage in SAMPLED}
    table = Table(case.family, "full, ms", *(f"{stage}, {what}" for stage in SAMPLED for what in ("ms", "points")))
    for part in (*PARTS, LOSS, OTHER, ALL):
        full, cells = seconds["full"][part], []
        for stage in SAMPLED:
            own = seconds[stage][part]
            points = 100 * (own - ideal[stage] * full) / (ideal[stage] * seconds["full"][ALL])
            cells += [f"{1e3 * own:.1f}", f"{points:+.1f}"]
        table.add_row(part, f"{1e3 * full:.1f}", *cells)
    return table


def main() -> None:
    _keep_freed_memory()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--families", nargs="+", choices=["gpt2", "llama"], default=["gpt2", "llama"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES["cpu"]:
        if case.family in arguments.families:
            case = replace(case, tokens=arguments.tokens)
            bench = build(case, torch.device("cpu"), False, arguments.micro_batches)
            Console(width=120).print(rows(case, bench, measure(case, bench, arguments.rounds)))


if __name__ == "__main__":
    main()
