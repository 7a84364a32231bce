"""The shape that most families share: attention with separate projections, then an MLP, around a residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledAttribute, SampledParameter
from est_cli.families.shared.family import Numbers

GROUPED = {"num_kv_heads": None, "mlp_size": None}
"""The defaults of a family whose query heads may share KV heads."""
LLAMA_LIKE = {**GROUPED, "tie_embeddings": False, "norm_eps": 1e-6, "rope_theta": 10_000.0}

NORMS_BEHIND = ("post_attention_layernorm", "post_feedforward_layernorm")
"""The branches of a layer that normalises what attention and MLP give before it adds that."""


def llama_settings(numbers: Numbers, norm_eps: str = "rms_norm_eps") -> dict[str, Any]:
    """What a config takes that names things as Llama's does, all but perhaps `norm_eps`."""
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "num_attention_heads": numbers.num_heads,
        "num_key_value_heads": numbers.num_kv_heads,
        "intermediate_size": numbers.mlp_size,
        "max_position_embeddings": numbers.max_positions,
        norm_eps: numbers.norm_eps,
        "tie_word_embeddings": numbers.tie_embeddings,
        "rope_parameters": rope(numbers),
    }


def rope(numbers: Numbers, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": numbers.rope_theta, **more}


def llama_spec(
    config: Any,
    *,
    attention_out: str = "o_proj",
    mlp: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    branches: tuple[str, ...] | None = None,
    parameters: tuple[SampledParameter, ...] = (),
    head_dim: int | None = None,
) -> ModelSpec:
    """The ModelSpec of a config that names things as Llama's does.

    `mlp` are the projections into the columns and, last, out of them; `branches` are by default the two output
    projections, `head_dim` what the config says of it.
    """
    d, mlp_size = config.hidden_size, config.intermediate_size
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = head_dim_of(config) if head_dim is None else head_dim
    out, down = f"self_attn.{attention_out}", mlp[-1]
    return ModelSpec(
        family=config.model_type,
        layers="model.layers",
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_size=mlp_size,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        projections=(
            Projection("self_attn.q_proj", d, heads * head_dim, "head", "out"),
            Projection("self_attn.k_proj", d, kv_heads * head_dim, "kv_head", "out"),
            Projection("self_attn.v_proj", d, kv_heads * head_dim, "kv_head", "out"),
            Projection(out, heads * head_dim, d, "head", "in"),
            *(Projection(up, d, mlp_size, "column", "out") for up in mlp[:-1]),
            Projection(down, mlp_size, d, "column", "in"),
        ),
        branches=(out, down) if branches is None else branches,
        parameters=parameters,
        attributes=(SampledAttribute("self_attn", "num_key_value_groups", lambda kept: kept.heads // kept.kv_heads),),
    )


def causal(config: Any) -> Any:
    """The config itself; ValueError where its attention looks at later tokens, so that there is nothing to predict."""
    if getattr(config, "use_bidirectional_attention", None):
        raise ValueError(f"model: {config.model_type} with bidirectional attention is no causal language model")
    return config


def head_dim_of(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _divisor(whole: int, wanted: int) -> int:
    """The divisor of `whole` that is nearest to `wanted`."""
    return min((one for one in range(1, whole + 1) if whole % one == 0), key=lambda one: abs(one - wanted))


def head_problems(numbers: Numbers, turned: float = 1.0) -> Iterator[str]:
    """What is wrong with the numbers of heads; `turned` is the share of each head that rotary positions turn."""
    heads, kv_heads, width = numbers.num_heads, numbers.num_kv_heads, int(numbers.head_dim * turned)
    if numbers.head_dim == numbers.hidden_size // heads and numbers.hidden_size % heads:
        yield (
            f"model.num_heads: {heads} heads do not divide model.hidden_size={numbers.hidden_size}; "
            f"use model.num_heads={_divisor(numbers.hidden_size, heads)}"
        )
    elif turned and (width < 2 or width % 2):
        of = f", {turned:g} of {numbers.head_dim}" if turned != 1.0 else ""
        yield f"model.num_heads: rotary positions need an even head size, got {width}{of}"
    if heads % kv_heads:
        yield (
            f"model.num_kv_heads: {kv_heads} KV heads do not divide model.num_heads={heads}; "
            f"use model.num_kv_heads={_divisor(heads, kv_heads)}"
        )
