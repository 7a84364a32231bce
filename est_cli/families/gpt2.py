"""GPT-2: Conv1D projections (weight stored in x out), query, key and value fused as three runs of heads."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledAttribute, UnitSpan
from est_cli.families.shared.attention import head_problems
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {
        "vocab_size": numbers.vocab_size,
        "n_embd": numbers.hidden_size,
        "n_layer": numbers.num_layers,
        "n_head": numbers.num_heads,
        "n_inner": numbers.mlp_size,
        "n_positions": numbers.max_positions,
        "layer_norm_epsilon": numbers.norm_eps,
        "tie_word_embeddings": numbers.tie_embeddings,
        "add_cross_attention": False,
    }


def spec(config: Any) -> ModelSpec:
    if config.add_cross_attention:
        raise ValueError("model: GPT-2 with cross-attention is not supported; use a decoder-only GPT-2")
    d, heads = config.n_embd, config.n_head
    mlp = config.n_inner if config.n_inner is not None else 4 * d
    head_dim = d // heads
    return ModelSpec(
        family="gpt2",
        layers="transformer.h",
        num_layers=config.n_layer,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        mlp_size=mlp,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=config.n_positions,
        projections=(
            Projection("attn.c_attn", d, 3 * d, "head", "out", (UnitSpan(head_dim),) * 3, transposed=True),
            Projection("attn.c_proj", d, d, "head", "in", transposed=True),
            Projection("mlp.c_fc", d, mlp, "column", "out", transposed=True),
            Projection("mlp.c_proj", mlp, d, "column", "in", transposed=True),
        ),
        branches=("attn.c_proj", "mlp.c_proj"),
        attributes=(
            SampledAttribute("attn", "split_size", lambda kept: kept.heads * head_dim),
            SampledAttribute("attn.c_attn", "nf", lambda kept: 3 * kept.heads * head_dim),
            SampledAttribute("mlp.c_fc", "nf", lambda kept: kept.columns),
        ),
    )


FAMILY = Family(
    spec,
    settings,
    defaults={"mlp_size": None, "tie_embeddings": True, "norm_eps": 1e-5},
    problems=lambda numbers: head_problems(numbers, turned=0.0),
)
