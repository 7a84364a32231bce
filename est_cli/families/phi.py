"""Phi-1, 1.5 and 2: attention and MLP side by side behind one norm, partly rotary heads, an LM head with a bias."""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec
from est_cli.families.shared.attention import GROUPED, head_problems, llama_settings, llama_spec, rope
from est_cli.families.shared.family import Family, Numbers

TURNED = 0.5
"""The share of each head that rotary positions turn."""


def settings(numbers: Numbers) -> dict[str, Any]:
    llama = llama_settings(numbers, norm_eps="layer_norm_eps")
    return {**llama, "rope_parameters": rope(numbers, partial_rotary_factor=TURNED)}


def spec(config: Any) -> ModelSpec:
    return llama_spec(config, attention_out="dense", mlp=("mlp.fc1", "mlp.fc2"))


FAMILY = Family(
    spec,
    settings,
    defaults={**GROUPED, "tie_embeddings": False, "norm_eps": 1e-5, "rope_theta": 10_000.0},
    problems=lambda numbers: head_problems(numbers, TURNED),
)
