"""GPT-NeoX and Pythia: query, key and value fused head by head, attention and MLP side by side, partly rotary heads."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec, Projection, UnitSpan
from est_cli.families.shared.attention import head_problems, rope
from est_cli.families.shared.family import Family, Numbers

TURNED = 0.25
"""The share of each head that rotary positions turn."""


def settings(numbers: Numbers) -> dict[str, Any]:
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "num_attention_heads": numbers.num_heads,
        "intermediate_size": numbers.mlp_size,
        "max_position_embeddings": numbers.max_positions,
        "layer_norm_eps": numbers.norm_eps,
        "tie_word_embeddings": numbers.tie_embeddings,
        "rope_parameters": rope(numbers, partial_rotary_factor=TURNED),
    }


def spec(config: Any) -> ModelSpec:
    d, mlp, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    head_dim = d // heads
    return ModelSpec(
        family="gpt_neox",
        layers="gpt_neox.layers",
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        mlp_size=mlp,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        projections=(
            Projection("attention.query_key_value", d, 3 * d, "head", "out", (UnitSpan(3 * head_dim),)),
            Projection("attention.dense", d, d, "head", "in"),
            Projection("mlp.dense_h_to_4h", d, mlp, "column", "out"),
            Projection("mlp.dense_4h_to_h", mlp, d, "column", "in"),
        ),
        branches=("attention.dense", "mlp.dense_4h_to_h"),
    )


FAMILY = Family(
    spec,
    settings,
    defaults={"mlp_size": None, "tie_embeddings": False, "norm_eps": 1e-5, "rope_theta": 10_000.0},
    problems=lambda numbers: head_problems(numbers, TURNED),
)
