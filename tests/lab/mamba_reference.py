"""Mamba and Mamba2 written down from their papers' formulas, with every unit computed and the left-out ones masked.

Only parameters are read from the Hugging Face modules, and nothing is shared with `est_cli.est`. A mask multiplies what
a unit hands on by 0; sums over units are divided by the share that runs.

Shapes: B batch, T tokens, D model, C inner channels, N state, H heads of P channels.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Mamba2Config, MambaConfig, PreTrainedConfig, PreTrainedModel

from tests.lab.reference import multiply_output, skip

FAMILIES = ("mamba", "mamba2")
UNITS = {"mamba": 27, "mamba2": 9}


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    """5 layers; 27 channels, or 9 heads of 3 (chunks of 4 tokens); biases everywhere."""
    sizes = {"vocab_size": 31, "hidden_size": 9, "expand": 3, "num_hidden_layers": 5, "state_size": 5, "conv_kernel": 3}
    more = {"use_bias": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "mamba":
        return MambaConfig(**(sizes | more | {"time_step_rank": 2} | changes))
    heads = {"num_heads": 9, "head_dim": 3, "n_groups": 1, "chunk_size": 4, "time_step_limit": (0.002, 5.0)}
    return Mamba2Config(**(sizes | more | heads | changes))


def masked_dense(model: PreTrainedModel, subnetwork: Any, layer_scale: str = "none") -> PreTrainedModel:
    """A copy of the untouched `model` that computes what the subnetwork computes, by the formulas below."""
    copy, family = deepcopy(model), model.config.model_type
    layers, mixer_of = copy.backbone.layers, {"mamba": mamba_mixer, "mamba2": mamba2_mixer}[family]
    active = range(len(layers)) if subnetwork.layer_idx is None else subnetwork.layer_idx
    for number, layer in enumerate(layers):
        if number not in active:
            layer.forward = skip
            continue
        keep = torch.ones(UNITS[family], dtype=torch.float64)
        if subnetwork.head_idx is not None:
            keep = torch.zeros_like(keep).index_fill(0, subnetwork.head_idx[number], 1.0)
        layer.mixer.forward = partial(mixer_of, layer.mixer, keep)
        if layer_scale == "inverse":
            layer.mixer.register_forward_hook(multiply_output(len(layers) / len(active)))
    return copy


def mamba_mixer(mixer: nn.Module, keep: Tensor, hidden_states: Tensor, **_: Any) -> Tensor:
    """Gu and Dao 2023, algorithm 2 inside the block of figure 3: (B, T, D) -> (B, T, D); keep (C,)."""
    share, rank, state = keep.mean(), mixer.dt_proj.in_features, mixer.A_log.shape[1]
    x, gate = linear(mixer.in_proj, hidden_states).chunk(2, dim=-1)
    x = F.silu(convolution(mixer.conv1d, x)) * keep
    step, into, out_of = linear(mixer.x_proj, x / share).split([rank, state, state], dim=-1)
    dt = F.softplus(linear(mixer.dt_proj, step))
    decay = torch.exp(dt.unsqueeze(-1) * -mixer.A_log.exp())  # (B, T, C, N)
    update = (dt * x).unsqueeze(-1) * into.unsqueeze(2)
    y = (recurrence(decay, update) * out_of.unsqueeze(2)).sum(-1) + mixer.D * x
    return linear(mixer.out_proj, y * F.silu(gate) * keep / share)


def mamba2_mixer(mixer: nn.Module, keep: Tensor, hidden_states: Tensor, **_: Any) -> Tensor:
    """Dao and Gu 2024, listing 1's recurrence and figure 6's block: (B, T, D) -> (B, T, D); keep (H,)."""
    share, heads = keep.mean(), len(keep)
    width = mixer.norm.weight.numel() // heads
    inner, state = heads * width, (mixer.conv1d.weight.shape[0] - heads * width) // 2
    gate, x, shared, dt = linear(mixer.in_proj, hidden_states).split([inner, inner, 2 * state, heads], dim=-1)
    convolved = F.silu(convolution(mixer.conv1d, torch.cat((x, shared), dim=-1)))
    x, into, out_of = convolved.split([inner, state, state], dim=-1)
    x = x.unflatten(-1, (heads, width))  # (B, T, H, P)
    dt = F.softplus(dt + mixer.dt_bias).clamp(*mixer.time_step_limit)
    decay = torch.exp(dt * -mixer.A_log.exp())[..., None, None]
    update = (dt.unsqueeze(-1) * x).unsqueeze(-1) * into[:, :, None, None]  # (B, T, H, P, N)
    y = (recurrence(decay, update) * out_of[:, :, None, None]).sum(-1) + mixer.D.unsqueeze(-1) * x
    kept = keep.repeat_interleave(width)
    y = y.flatten(2) * F.silu(gate) * kept
    mean_square = y.square().sum(-1, keepdim=True) / kept.sum()
    y = y / torch.sqrt(mean_square + mixer.norm.variance_epsilon) * mixer.norm.weight
    return linear(mixer.out_proj, y / share)


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    y = x @ module.weight.t()
    return y if module.bias is None else y + module.bias


def convolution(module: nn.Conv1d, x: Tensor) -> Tensor:
    """Causal, each channel by itself: (B, T, C) -> (B, T, C)."""
    kernel, length = module.weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, kernel - 1, 0))
    y = sum(padded[:, back : back + length] * module.weight[:, 0, back] for back in range(kernel))
    return y if module.bias is None else y + module.bias


def recurrence(decay: Tensor, update: Tensor) -> Tensor:
    """h_t = decay_t * h_(t-1) + update_t, along dimension 1."""
    states = [update[:, 0]]
    for t in range(1, update.shape[1]):
        states.append(decay[:, t] * states[-1] + update[:, t])
    return torch.stack(states, dim=1)


def unused_slices(model: PreTrainedModel, subnetwork: Any, layer: int) -> list[tuple[str, int, Tensor]]:
    """(parameter name, dimension, positions) of what the subnetwork leaves out inside of a layer that runs."""
    if subnetwork.head_idx is None:
        return []
    family, prefix = model.config.model_type, f"backbone.layers.{layer}.mixer"
    units = UNITS[family]
    left = torch.tensor(sorted(set(range(units)) - set(subnetwork.head_idx[layer].tolist())))
    if family == "mamba":
        two = torch.cat((left, left + units))
        rows = {"in_proj.weight": two, "in_proj.bias": two}
        rows |= dict.fromkeys(("conv1d.weight", "conv1d.bias", "dt_proj.weight", "dt_proj.bias", "A_log", "D"), left)
        columns = {"x_proj.weight": left, "out_proj.weight": left}
    else:
        width, state = 3, 5
        wide = (left.unsqueeze(1) * width + torch.arange(width)).flatten()
        inner = units * width
        fused = torch.cat((wide, wide + inner, left + 2 * inner + 2 * state))
        rows = {"in_proj.weight": fused, "in_proj.bias": fused, "norm.weight": wide}
        rows |= dict.fromkeys(("conv1d.weight", "conv1d.bias"), wide) | dict.fromkeys(("A_log", "D", "dt_bias"), left)
        columns = {"out_proj.weight": wide}
    return [
        (f"{prefix}.{name}", dim, positions)
        for dim, names in enumerate((rows, columns))
        for name, positions in names.items()
    ]
