"""The method written a second time: the dense model, masked and rescaled.

Nothing is left out of the computation here: every head and column is computed, then multiplied by 0 or by N/k just
before the output projection, so that its bias stays unscaled. Only the tests use it, and it shares no code with
`est_cli.est`: it reads the index sets of a subnetwork and the plain Hugging Face modules, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Names:
    """Where a family keeps what is masked, relative to a layer, and what joins the residual stream."""

    layers: str
    attention: str
    """The attention's output projection."""
    mlp: str
    """The MLP's output projection."""
    branches: tuple[str, str] | None = None
    """None: the two projections."""
    wide_norms: bool = False
    """Whether queries and keys are normalised over all heads together, by self_attn.q_norm and k_norm."""


LLAMA = Names("model.layers", "self_attn.o_proj", "mlp.down_proj")
NORMS_BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")
NAMES = {
    "gpt2": Names("transformer.h", "attn.c_proj", "mlp.c_proj"),
    "gemma2": replace(LLAMA, branches=NORMS_BEHIND),
    "gemma3_text": replace(LLAMA, branches=NORMS_BEHIND),
    "gpt_neox": Names("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
    "olmo2": replace(LLAMA, branches=NORMS_BEHIND, wide_norms=True),
    "opt": Names("model.decoder.layers", "self_attn.out_proj", "fc2"),
    "phi": Names("model.layers", "self_attn.dense", "mlp.fc2"),
    "starcoder2": Names("model.layers", "self_attn.o_proj", "mlp.c_proj"),
}
"""What differs from Llama."""


def names_of(model: PreTrainedModel) -> Names:
    return NAMES.get(model.config.model_type, LLAMA)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return model.get_submodule(names_of(model).layers)


def multiply_input(factor: torch.Tensor) -> Callable[[nn.Module, tuple[torch.Tensor]], tuple[torch.Tensor]]:
    return lambda module, args: (args[0] * factor,)


def multiply_output(factor: float) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], torch.Tensor]:
    return lambda module, args, output: output * factor


def skip(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return hidden_states


def real(index: torch.Tensor, size: int) -> torch.Tensor:
    """The units of a row; where layers differ it is filled up with the number of all units."""
    return index[index < size]


def mask(index: torch.Tensor, size: int, repeat: int = 1, power: float = 1.0) -> torch.Tensor:
    """(size * repeat,) float64: (size/k)**power at the k units of `index`, 0 elsewhere; each unit is `repeat` wide."""
    factors = torch.zeros(size, dtype=torch.float64)
    factors[index] = (size / len(index)) ** power
    return factors.repeat_interleave(repeat)


def width_into(model: PreTrainedModel, projection: str) -> int:
    """Entries that an output projection of a layer sums over. GPT-2 stores weights (in, out), the others (out, in)."""
    shape = layers_of(model)[0].get_submodule(projection).weight.shape
    return int(shape[0] if model.config.model_type == "gpt2" else shape[1])


def mlp_size(model: PreTrainedModel) -> int:
    return width_into(model, names_of(model).mlp)


def head_dim(model: PreTrainedModel) -> int:
    return width_into(model, names_of(model).attention) // model.config.num_attention_heads


def normalise_over(norm: nn.Module, kept: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The norm's forward over the entries `kept`; what is not kept becomes 0. In fp32 inside, as transformers' are."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        part = x[..., kept].to(torch.float32)
        part = part * (part.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        return torch.zeros_like(x).index_copy(-1, kept, (norm.weight[kept] * part).to(x.dtype))

    return forward


def normalise_kept_heads(model: PreTrainedModel, attention: nn.Module, kept: torch.Tensor) -> None:
    """Queries of the heads `kept`, keys of the KV heads that these read."""
    groups = torch.unique(kept // (model.config.num_attention_heads // model.config.num_key_value_heads))
    for norm, units in ((attention.q_norm, kept), (attention.k_norm, groups)):
        entries = units.unsqueeze(1) * head_dim(model) + torch.arange(head_dim(model))
        norm.forward = normalise_over(norm, entries.flatten())


def active_layers(model: PreTrainedModel, subnetwork: Any) -> tuple[int, ...]:
    return tuple(range(len(layers_of(model)))) if subnetwork.layer_idx is None else tuple(subnetwork.layer_idx)


def masked_dense(
    model: PreTrainedModel,
    subnetwork: Any,
    layer_scale: str = "none",
    power: float = 1.0,
    chances: Sequence[float] | None = None,
) -> PreTrainedModel:
    """A copy of the untouched `model` that computes what the subnetwork computes; `chances`: branches of each layer
    are divided by its own."""
    copy, names = deepcopy(model), names_of(model)
    dtype = next(copy.parameters()).dtype
    active = active_layers(copy, subnetwork)
    for number, layer in enumerate(layers_of(copy)):
        if number not in active:
            layer.forward = skip
            continue
        attention, mlp = layer.get_submodule(names.attention), layer.get_submodule(names.mlp)
        if subnetwork.head_idx is not None:
            drawn = real(subnetwork.head_idx[number], copy.config.num_attention_heads)
            heads = mask(drawn, copy.config.num_attention_heads, head_dim(copy), power)
            attention.register_forward_pre_hook(multiply_input(heads.to(dtype)))
            if names.wide_norms:
                normalise_kept_heads(copy, layer.self_attn, drawn)
        if subnetwork.mlp_idx is not None:
            columns = mask(real(subnetwork.mlp_idx[number], mlp_size(copy)), mlp_size(copy), power=power)
            mlp.register_forward_pre_hook(multiply_input(columns.to(dtype)))
        if layer_scale == "inverse" or chances is not None:
            chance = len(active) / len(layers_of(copy)) if chances is None else chances[number]
            branch = multiply_output(1.0 / chance)
            for path in names.branches or (names.attention, names.mlp):
                layer.get_submodule(path).register_forward_hook(branch)
    return copy


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass leaves behind."""

    loss: torch.Tensor
    logits: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    input_gradient: torch.Tensor


def forward_backward(model: PreTrainedModel, ids: torch.Tensor, accumulate: bool = False) -> Pass:
    """One pass with the plain next-token loss; gradients of all parameters and of the input embeddings."""
    if not accumulate:
        model.zero_grad(set_to_none=True)
    embeddings = model.get_input_embeddings()(ids)
    embeddings.retain_grad()
    logits = model(inputs_embeds=embeddings, use_cache=False).logits
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)), ids[:, 1:].flatten()
    )
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return Pass(loss.detach(), logits.detach(), gradients, embeddings.grad)


def outside(index: torch.Tensor, size: int, repeat: int = 1) -> torch.Tensor:
    """Positions of the units not in `index`, each unit `repeat` wide."""
    return (mask(index, size, repeat) == 0).nonzero().flatten()


def unused_slices(model: PreTrainedModel, subnetwork: Any) -> list[tuple[str, int, torch.Tensor]]:
    """(parameter name, dimension, positions) of everything inside used tensors that the subnetwork leaves out."""
    unused = unused_gpt2 if model.config.model_type == "gpt2" else unused_llama
    return [entry for layer in active_layers(model, subnetwork) for entry in unused(model, subnetwork, layer)]


def unused_gpt2(model: PreTrainedModel, subnetwork: Any, layer: int) -> list[tuple[str, int, torch.Tensor]]:
    prefix, slices = f"transformer.h.{layer}", []
    if subnetwork.head_idx is not None:
        heads = outside(real(subnetwork.head_idx[layer], model.config.n_head), model.config.n_head, head_dim(model))
        qkv = torch.cat([heads + part * model.config.n_embd for part in range(3)])
        slices += [(f"{prefix}.attn.c_attn.weight", 1, qkv), (f"{prefix}.attn.c_attn.bias", 0, qkv)]
        slices += [(f"{prefix}.attn.c_proj.weight", 0, heads)]
    if subnetwork.mlp_idx is not None:
        columns = outside(real(subnetwork.mlp_idx[layer], mlp_size(model)), mlp_size(model))
        slices += [(f"{prefix}.mlp.c_fc.weight", 1, columns), (f"{prefix}.mlp.c_fc.bias", 0, columns)]
        slices += [(f"{prefix}.mlp.c_proj.weight", 0, columns)]
    return slices


def unused_llama(model: PreTrainedModel, subnetwork: Any, layer: int) -> list[tuple[str, int, torch.Tensor]]:
    prefix, slices = f"model.layers.{layer}", []
    if subnetwork.head_idx is not None:
        config = model.config
        kept = real(subnetwork.head_idx[layer], config.num_attention_heads)
        groups = torch.unique(kept // (config.num_attention_heads // config.num_key_value_heads))
        heads = outside(kept, config.num_attention_heads, head_dim(model))
        pairs = outside(groups, config.num_key_value_heads, head_dim(model))
        for name, rows in (("q_proj", heads), ("k_proj", pairs), ("v_proj", pairs)):
            slices += [(f"{prefix}.self_attn.{name}.{kind}", 0, rows) for kind in ("weight", "bias")]
        slices += [(f"{prefix}.self_attn.o_proj.weight", 1, heads)]
    if subnetwork.mlp_idx is not None:
        columns = outside(real(subnetwork.mlp_idx[layer], mlp_size(model)), mlp_size(model))
        for name in ("gate_proj", "up_proj"):
            slices += [(f"{prefix}.mlp.{name}.{kind}", 0, columns) for kind in ("weight", "bias")]
        slices += [(f"{prefix}.mlp.down_proj.weight", 1, columns)]
    return slices
