"""LM head and loss alone: how long each way of computing them takes, forward and backward.

    python benchmarks/loss_time.py                       # CPU: one thread, CPU time, vocabularies of 8,192 and 50,257
    python benchmarks/loss_time.py --positions 16384     # on a GPU: bf16, compiled, columns padded to 128

Every way gets the same hidden states; in each round all take a turn in a shuffled order. Reported are medians of the
ratios to the plain way inside a round (the logits of all positions, then cross-entropy) with a 95 % interval, and on a
GPU the peak of the memory that it takes beside weights and hidden states.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from measure import SEED, clock, environment, paired_ratio
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from est_cli.distributed.device import keep_freed_memory
from est_cli.models.lm_loss import LmLoss

SEQ_LEN = 256
WAYS = {
    "cpu": {
        "whole": LmLoss("whole"),
        **{f"chunked {chunk}": LmLoss(chunk=chunk) for chunk in (64, 128, 256, 512)},
        **{f"torch {chunk}": LmLoss("torch", chunk=chunk) for chunk in (128, 256, 512)},
    },
    "cuda": {
        "whole": LmLoss("whole"),
        **{f"compiled {n}": LmLoss(chunk=n, pad_to=128, compiled=True) for n in (4096, 8192, 16384)},
        "compiled 8192, not padded": LmLoss(chunk=8192, compiled=True),
        "chunked 8192": LmLoss(chunk=8192, pad_to=128),
        **{f"triton {n}": LmLoss("triton", chunk=n, pad_to=128) for n in (4096, 8192, 16384)},
        "torch 8192": LmLoss("torch", chunk=8192),
    },
}


class Head(torch.nn.Module):
    """What LmLoss uses of a model, with hidden states that are already there."""

    def __init__(self, positions: int, width: int, vocab_size: int, device: torch.device) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.config = SimpleNamespace(model_type="gpt2")  # whose logits are the product itself
        self.head = torch.nn.Linear(width, vocab_size, bias=False, device=device)
        shape = (positions // SEQ_LEN, SEQ_LEN, width)
        self.hidden = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
        self.tokens = torch.randint(vocab_size, shape[:2], device=device)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def base_model(self, input_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(last_hidden_state=self.hidden)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.head(self.hidden))


def seconds(way: LmLoss, head: Head) -> float:
    """One forward and backward pass: CPU seconds of this process, or wall seconds of the GPU."""
    device = head.hidden.device
    head.zero_grad()
    head.hidden.grad = None
    begin = clock(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        loss = way(head, head.tokens, head.tokens.numel())
    loss.backward()
    return clock(device) - begin


def extra_gb(way: LmLoss, head: Head) -> float | None:
    if head.hidden.device.type != "cuda":
        return None
    head.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds(way, head)
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def compare(head: Head, ways: dict[str, LmLoss], rounds: int) -> list[dict[str, Any]]:
    """One line for each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    rng = random.Random(SEED)
    for _ in range(rounds + 1):
        for name in rng.sample(list(ways), len(ways)):
            times[name].append(seconds(ways[name], head))
    times = {name: taken[1:] for name, taken in times.items()}  # the first round warms up and compiles
    lines = []
    for name, taken in times.items():
        ratio, low, high = paired_ratio(taken, times["whole"])
        line = {"way": name, "ms": 1e3 * median(taken), "ratio": ratio, "low": low, "high": high}
        lines.append(line | {"extra_gb": extra_gb(ways[name], head)})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--positions", type=int, default=1024, help="tokens of a micro-batch (default 1024)")
    parser.add_argument("--width", type=int, help="of the model (default 512 on a CPU, 768 on a GPU)")
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 50257])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    width = arguments.width or (768 if device.type == "cuda" else 512)
    settings = {key: value for key, value in vars(arguments).items() if key != "json"}
    console, report = Console(), {"environment": environment(device), **settings, "width": width, "results": {}}
    ways = WAYS[device.type]
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        ways = {name: way for name, way in ways.items() if way.kind != "torch"}
    for vocab_size in arguments.vocab:
        head = Head(arguments.positions, width, vocab_size, device)
        lines = report["results"][vocab_size] = compare(head, ways, arguments.rounds)
        table = Table("way", "ms", "/ whole", "95 % interval", "extra GB", box=box.SIMPLE_HEAD, title=f"V {vocab_size}")
        for line in lines:
            memory = "" if line["extra_gb"] is None else f"{line['extra_gb']:.2f}"
            interval = f"{line['low']:.3f} - {line['high']:.3f}"
            table.add_row(line["way"], f"{line['ms']:.1f}", f"{line['ratio']:.3f}", interval, memory)
        console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2, default=str) + "\n", "utf-8")


if __name__ == "__main__":
    main()
