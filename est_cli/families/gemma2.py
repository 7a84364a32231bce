"""Gemma 2: a norm before and behind attention and MLP, a sliding window in every other layer, capped logits."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec
from est_cli.families.shared.attention import (
    LLAMA_LIKE,
    NORMS_BEHIND,
    causal,
    head_problems,
    llama_settings,
    llama_spec,
)
from est_cli.families.shared.family import Family, Logits, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {
        **llama_settings(numbers),
        "head_dim": numbers.head_dim,
        "query_pre_attn_scalar": numbers.head_dim,
        "sliding_window": numbers.sliding_window,
    }


def spec(config: Any) -> ModelSpec:
    return llama_spec(causal(config), branches=NORMS_BEHIND)


FAMILY = Family(
    spec,
    settings,
    defaults={**LLAMA_LIKE, "tie_embeddings": True, "head_dim": None, "sliding_window": 4096},
    problems=head_problems,
    logits=lambda config: Logits(cap=config.final_logit_softcapping),
)
