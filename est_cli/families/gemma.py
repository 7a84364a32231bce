"""Gemma: a Llama with scaled embeddings, a gated GELU and heads that may be wider than the model together."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec
from est_cli.families.shared.attention import LLAMA_LIKE, causal, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {**llama_settings(numbers), "head_dim": numbers.head_dim}


def spec(config: Any) -> ModelSpec:
    return llama_spec(causal(config))


FAMILY = Family(spec, settings, {**LLAMA_LIKE, "tie_embeddings": True, "head_dim": None}, problems=head_problems)
