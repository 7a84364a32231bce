"""What est must know of the model. Nothing heavy is imported here: est reads it before torch and transformers."""

from __future__ import annotations

from typing import Any

from est_cli.est import ModelSpec, Projection
from est_cli.families import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    """The numbers of `model.*` by the names that SquaredConfig has for them."""
    return {
        "vocab_size": numbers.vocab_size,
        "hidden_size": numbers.hidden_size,
        "num_hidden_layers": numbers.num_layers,
        "num_attention_heads": numbers.num_heads,
        "intermediate_size": numbers.mlp_size,
        "max_position_embeddings": numbers.max_positions,
        "tie_word_embeddings": numbers.tie_embeddings,
    }


def spec(config: Any) -> ModelSpec:
    """Where a SquaredForCausalLM has its heads, columns and layers."""
    d, heads, columns = config.hidden_size, config.num_attention_heads, config.intermediate_size
    return ModelSpec(
        family="squared",
        layers="model.layers",
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=d // heads,
        mlp_size=columns,
        hidden_size=d,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        projections=(
            *(Projection(f"attn.{name}", d, d, "head", "out") for name in ("q", "k", "v")),
            Projection("attn.o", d, d, "head", "in"),
            Projection("mlp.up", d, columns, "column", "out"),
            Projection("mlp.down", columns, d, "column", "in"),
        ),
        branches=("attn.o", "mlp.down"),
    )


def classes() -> tuple[type, type]:
    """Called when a model is built. A family that transformers has (Arcee, say) does without."""
    from est_example.model import SquaredConfig, SquaredForCausalLM

    return SquaredConfig, SquaredForCausalLM


FAMILY = Family(spec, settings, defaults={"mlp_size": None, "tie_embeddings": True}, classes=classes)
