"""What the benchmarks share: shapes, ratios with their spread, and what they were measured on."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from est_cli.config import ModelConfig
from est_cli.distributed.hardware import cpu_name
from est_cli.est import SamplingRates
from est_cli.storage.versions import git_commit, versions

SAMPLED = {"stage 1": SamplingRates(0.5, 0.5, 0.5), "stage 2": SamplingRates(0.5, 0.5, 1.0)}
RATES = {**SAMPLED, "full": SamplingRates()}
RESAMPLES = 4000
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
SEED = 0


@dataclass(frozen=True)
class Case:
    """A model, its batch, and the largest achieved / ideal that passes."""

    model: ModelConfig
    seq_len: int
    tokens: int
    """Tokens per step."""
    limit: float

    @property
    def family(self) -> str:
        return self.model.family

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T) of a step."""
        return self.tokens // self.seq_len, self.seq_len


def _gpt2(vocab: int, width: int, layers: int, heads: int, positions: int) -> ModelConfig:
    return ModelConfig("gpt2", "gpt2", vocab, width, layers, heads, max_positions=positions)


def _llama(vocab: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int, positions: int) -> ModelConfig:
    return ModelConfig("llama", "llama", vocab, width, layers, heads, kv_heads, mlp, positions)


GPT2_TINY = Case(_gpt2(4096, 128, 4, 4, 512), seq_len=256, tokens=1024, limit=1.0)
GPT2 = Case(_gpt2(50257, 768, 12, 12, 1024), seq_len=128, tokens=256, limit=1.0)
"""The presets' shapes with a small batch, for a CPU; without a gate."""

CASES = {
    "cpu": (
        Case(_gpt2(8192, 512, 8, 8, 256), seq_len=256, tokens=2048, limit=1.05),
        Case(_llama(8192, 512, 8, 8, 4, 1408, 256), seq_len=256, tokens=2048, limit=1.10),
    ),
    "cuda": (  # GPT-2 base and TinyLlama
        Case(_gpt2(50304, 768, 12, 12, 1024), seq_len=1024, tokens=16384, limit=1.10),
        Case(_llama(32000, 2048, 22, 32, 4, 5632, 2048), seq_len=2048, tokens=16384, limit=1.10),
    ),
}


def paired_ratio(times: list[float], base: list[float]) -> tuple[float, float, float]:
    """Median of times / base, pair by pair, and the bounds of its 95 % bootstrap interval."""
    ratios = [time_s / base_s for time_s, base_s in zip(times, base, strict=True)]
    rng = random.Random(SEED)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    tail = RESAMPLES * 25 // 1000
    return median(ratios), medians[tail], medians[-1 - tail]


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = device.type == "cuda"
    return {
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "clock": "wall" if cuda else "CPU time",
        "precision": "bf16 autocast" if cuda else "fp32",
        "threads": torch.get_num_threads(),
        "commit": git_commit(),
        **versions(),
    }


def clock(device: torch.device) -> float:
    """CPU seconds of this process, or wall seconds once the GPU is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
