"""OPT: learned positions, and an MLP that lies in the layer itself."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledAttribute
from est_cli.families.shared.attention import head_problems
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "word_embed_proj_dim": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "num_attention_heads": numbers.num_heads,
        "ffn_dim": numbers.mlp_size,
        "max_position_embeddings": numbers.max_positions,
        "tie_word_embeddings": numbers.tie_embeddings,
        "layerdrop": 0.0,
    }


def spec(config: Any) -> ModelSpec:
    d, mlp, heads = config.hidden_size, config.ffn_dim, config.num_attention_heads
    if config.word_embed_proj_dim != d:
        raise ValueError("model: OPT with embeddings of another width than its layers (OPT-350m) is not supported")
    if config.layerdrop:
        raise ValueError("model: OPT with layerdrop is not supported, it skips layers as p_l does; set it to 0")
    return ModelSpec(
        family="opt",
        layers="model.decoder.layers",
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=d // heads,
        mlp_size=mlp,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        projections=(
            *(Projection(f"self_attn.{name}_proj", d, d, "head", "out") for name in "qkv"),
            Projection("self_attn.out_proj", d, d, "head", "in"),
            Projection("fc1", d, mlp, "column", "out"),
            Projection("fc2", mlp, d, "column", "in"),
        ),
        branches=("self_attn.out_proj", "fc2"),
        attributes=(SampledAttribute("self_attn", "num_heads", lambda kept: kept.heads),),
    )


FAMILY = Family(
    spec,
    settings,
    defaults={"mlp_size": None, "tie_embeddings": True},
    problems=lambda numbers: head_problems(numbers, turned=0.0),
)
