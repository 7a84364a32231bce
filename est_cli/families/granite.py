"""Granite: a Llama with constant factors on embeddings, attention, residual branches and logits."""

from __future__ import annotations

from typing import Any

from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Logits, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    """With the factors of Granite 3: those of attention and logits follow from the widths."""
    return {
        **llama_settings(numbers),
        "embedding_multiplier": 12.0,
        "attention_multiplier": 1.0 / numbers.head_dim,
        "residual_multiplier": 0.22,
        "logits_scaling": numbers.hidden_size / 256,
    }


FAMILY = Family(
    llama_spec,
    settings,
    defaults={**LLAMA_LIKE, "tie_embeddings": True, "norm_eps": 1e-5},
    problems=head_problems,
    logits=lambda config: Logits(factor=1.0 / config.logits_scaling),
)
