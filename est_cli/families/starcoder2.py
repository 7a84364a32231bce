"""StarCoder2: a Llama with biases, LayerNorms, a plain GELU MLP and a sliding window in every layer."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec
from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {**llama_settings(numbers, norm_eps="norm_epsilon"), "sliding_window": numbers.sliding_window}


def spec(config: Any) -> ModelSpec:
    return llama_spec(config, mlp=("mlp.c_fc", "mlp.c_proj"))


FAMILY = Family(
    spec,
    settings,
    defaults={**LLAMA_LIKE, "tie_embeddings": True, "norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": 4096},
    problems=head_problems,
)
