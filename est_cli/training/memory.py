"""Memory that training needs, estimated without allocating any: the model runs on torch's fake tensors.

Counted are parameters, gradients, the optimizer's moments, and what autograd keeps of one micro-batch for the backward
pass. Not counted: the allocator's fragmentation, temporary buffers, and the libraries themselves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM

from est_cli.config import Attention, OptimConfig, Precision
from est_cli.distributed.device import autocast, repeated_kv_heads
from est_cli.distributed.gradient_sync import SHARED_BELOW
from est_cli.est import IndexGenerator, ModelSpec, SamplingRates, apply_est
from est_cli.est.positions import first_positions
from est_cli.est.sizes import SamplingOptions
from est_cli.models import (
    checkpoint_activations,
    packed_sequences,
    quiet_transformers,
    settle_positions,
    unpacked_sequences,
)
from est_cli.models.lm_loss import LmLoss
from est_cli.training.memory_estimate import Activations, MemoryEstimate
from est_cli.training.optim import build_optimizer, missing_moments

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def estimate_memory(
    config: Any,
    spec: ModelSpec,
    options: SamplingOptions,
    rates: list[SamplingRates],
    seq_lens: Sequence[int],
    precision: Precision,
    checkpointing: bool,
    lm_loss: LmLoss,
    attention: Attention = Attention.auto,
    optim: OptimConfig | None = None,
    repeated: bool = False,
) -> MemoryEstimate:
    """Estimate for the model of `config` at each of `rates`, for any number of sequences of as many tokens as its
    entry of `seq_lens`.

    Every kernel of attention but `math` keeps what the one that torch chooses here keeps: no T x T matrix. `optim`
    None: AdamW. `repeated`: whether grouped KV heads are repeated before attention (see repeats_kv_heads).
    """
    kernel = sdpa_kernel(SDPBackend.MATH) if attention is Attention.math else contextlib.nullcontext()
    subnetworks = [IndexGenerator(spec, 0, options).largest(rate) for rate in rates]
    activations = []
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        unpacked_sequences() if lm_loss.end_of_text is None else packed_sequences(),
        quiet_transformers(),
        kernel,
        repeated_kv_heads(repeated),
    ):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        settle_positions(model)
        handle = apply_est(model, spec)
        if checkpointing:
            checkpoint_activations(model)
        for rate, subnetwork, seq_len in zip(rates, subnetworks, seq_lens, strict=True):
            handle.activate(subnetwork)
            one, two = (_kept_bytes(model, size, seq_len, rate.p_t, precision, lm_loss) for size in (1, 2))
            activations.append(Activations(2 * one - two, two - one))
        moments = missing_moments(build_optimizer(model, optim or OptimConfig(), handle))
        layers = tuple(sum(parameter.numel() for parameter in layer.parameters()) for layer in handle.layers)
    parameters = list(model.parameters())
    states = moments + sum(2 * parameter.nbytes for parameter in parameters)
    count = sum(parameter.numel() for parameter in parameters)
    buffered = sum(parameter.numel() for parameter in parameters if parameter.numel() < SHARED_BELOW)
    return MemoryEstimate(count, states, layers, buffered, activations, precision)


def available_bytes() -> int:
    """Memory of this machine, or of this container where it has less, that can be taken without swapping."""
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS: all there is
    free = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, KeyError):  # Linux: what caches hold can be taken too
        free = _numbers(MEMINFO)["MemAvailable"] * 1024
    with contextlib.suppress(OSError, ValueError, KeyError):  # a control group's limit (version 2)
        used = int((CGROUP / "memory.current").read_text()) - _numbers(CGROUP / "memory.stat")["inactive_file"]
        free = min(free, int((CGROUP / "memory.max").read_text()) - used)  # `max` is no number and no limit
    return free


def _numbers(path: Path) -> dict[str, int]:
    """`NAME: 123 kB` or `name 123` in each line."""
    words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {name: int(number) for name, number, *_ in words}


def _kept_bytes(model: Any, sequences: int, seq_len: int, p_t: float, precision: Precision, lm_loss: LmLoss) -> int:
    """Bytes of all storages that autograd keeps for backward, parameters left out."""
    tokens, drawn = torch.zeros(sequences, seq_len, dtype=torch.int64), first_positions(sequences, seq_len, p_t)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors are held, so that no storage's address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        autocast(torch.device("cpu"), precision),
    ):
        kind = "chunked" if lm_loss.kind == "triton" else lm_loss.kind  # it keeps the same, and needs a GPU
        replace(lm_loss, kind=kind, compiled=False)(model, tokens, 1, drawn=drawn)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
