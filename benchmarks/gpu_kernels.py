"""Which attention kernel runs for which dtype and heads, and what products cost whose width is not a multiple of 8.

    python benchmarks/gpu_kernels.py --json kernels.json

For each case of attention (causal, 8 sequences of 1,024 tokens, 32 heads of 64): the kernels of its backward and
forward pass by name, and milliseconds. For each width N: milliseconds of (32768, 768) x (768, N) in bf16, and per
column against N = 1536. Runs on a CPU too, where the names are those of the CPU's kernels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from measure import clock, environment
from torch.profiler import ProfilerActivity, profile

WIDTHS = (1536, 1843, 2150, 2304, 2765, 3072)
KV_HEADS = (32, 4)


def attention(device: torch.device, dtype: torch.dtype, kv_heads: int, repeats: int) -> dict[str, Any]:
    """Of one forward and backward pass; `kv_heads` below 32: grouped, handed to torch as they are."""
    size = (8, 1024) if device.type == "cuda" else (1, 64)
    shape = lambda heads: (size[0], heads, size[1], 64)  # noqa: E731
    query, key, value = (
        torch.randn(shape(heads), dtype=dtype, device=device, requires_grad=True) for heads in (32, kv_heads, kv_heads)
    )

    def step() -> None:
        F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=kv_heads < 32).sum().backward()

    seconds = timed(step, device, repeats)
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        step()
        clock(device)
    names = [event.key for event in seen.key_averages() if "atten" in event.key.lower() or "fmha" in event.key.lower()]
    return {"dtype": str(dtype), "kv_heads": kv_heads, "ms": 1e3 * seconds, "kernels": sorted(names)}


def product(device: torch.device, width: int, repeats: int) -> float:
    """Seconds."""
    rows = 32768 if device.type == "cuda" else 64
    left = torch.randn(rows, 768, dtype=torch.bfloat16, device=device)
    right = torch.randn(768, width, dtype=torch.bfloat16, device=device)
    return timed(lambda: left @ right, device, repeats)


def timed(work: Any, device: torch.device, repeats: int) -> float:
    """Median seconds of `work`, after two that warm up."""
    seconds = []
    for _ in range(repeats + 2):
        begin = clock(device)
        work()
        seconds.append(clock(device) - begin)
    return median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    found = [attention(device, dtype, heads, arguments.repeats) for dtype in kinds for heads in KV_HEADS]
    seconds = {width: product(device, width, arguments.repeats) for width in WIDTHS}
    per_column = {width: s / width / (seconds[1536] / 1536) for width, s in seconds.items()}
    products = [{"width": width, "ms": 1e3 * seconds[width], "per_column": per_column[width]} for width in WIDTHS]
    report = {"environment": environment(device), "attention": found, "products": products}
    arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
