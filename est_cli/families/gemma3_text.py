"""Gemma 3 without its eyes: Gemma 2 with norms of queries and keys instead of caps, and a global layer in six."""

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
    rope,
)
from est_cli.families.shared.family import Family, Logits, Numbers

LOCAL_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def settings(numbers: Numbers) -> dict[str, Any]:
    return {
        **llama_settings(numbers),
        "head_dim": numbers.head_dim,
        "query_pre_attn_scalar": numbers.head_dim,
        "sliding_window": numbers.sliding_window,
        "rope_parameters": {"full_attention": rope(numbers), "sliding_attention": dict(LOCAL_ROPE)},
    }


def spec(config: Any) -> ModelSpec:
    return llama_spec(causal(config), branches=NORMS_BEHIND)


FAMILY = Family(
    spec,
    settings,
    defaults={**LLAMA_LIKE, "tie_embeddings": True, "rope_theta": 1e6, "head_dim": None, "sliding_window": 512},
    problems=head_problems,
    logits=lambda config: Logits(cap=config.final_logit_softcapping),
)
