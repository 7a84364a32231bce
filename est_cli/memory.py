"""Memory that training needs, estimated without allocating any: the model runs on torch's fake tensors.

Counted are parameters, gradients, AdamW's two moments, and what autograd keeps of one micro-batch for the backward
pass. Not counted: the allocator's fragmentation, temporary buffers, and the libraries themselves.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from est_cli.est import IndexGenerator, ModelSpec, SamplingRates, apply_est
from est_cli.est.sizes import SamplingOptions
from est_cli.evaluate import next_token_loss
from est_cli.models import checkpoint_activations, unpacked_sequences

ADAMW_COPIES = 4
"""fp32 copies of each parameter: itself, its gradient and two moments."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes."""

    parameters: int
    """Number of parameters, tied ones once (not bytes)."""
    states: int
    """Parameters, gradients and moments."""
    activations: list[int]
    """Kept for the backward pass of one micro-batch, per set of rates."""


def estimate_memory(
    config: Any,
    spec: ModelSpec,
    options: SamplingOptions,
    rates: list[SamplingRates],
    micro_batch: int,
    seq_len: int,
    bf16: bool,
    checkpointing: bool,
) -> MemoryEstimate:
    """Estimate for the model of `config` at each of `rates`; `micro_batch` sequences of `seq_len` tokens."""
    subnetworks = [IndexGenerator(spec, 0, options).draw(0, rate) for rate in rates]
    activations = []
    with FakeTensorMode(allow_non_fake_inputs=True), unpacked_sequences():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        handle = apply_est(model, spec)
        if checkpointing:
            checkpoint_activations(model)
        tokens = torch.zeros(micro_batch, seq_len, dtype=torch.int64)
        for subnetwork in subnetworks:
            handle.activate(subnetwork)
            activations.append(_kept_bytes(model, tokens, bf16))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return MemoryEstimate(parameters, ADAMW_COPIES * 4 * parameters, activations)


def _kept_bytes(model: Any, tokens: Tensor, bf16: bool) -> int:
    """Bytes of all storages that autograd keeps for backward, parameters left out."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors are held, so that no storage's address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast:
            logits = model(input_ids=tokens, use_cache=False).logits
        next_token_loss(logits, tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
