"""StableLM: a Llama with LayerNorms and partly rotary heads, some with attention and MLP side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from est_cli.est.spec import ModelSpec, SampledAttribute
from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec, rope
from est_cli.families.shared.family import Family, Numbers

TURNED = 0.25
"""The share of each head that rotary positions turn."""


def settings(numbers: Numbers) -> dict[str, Any]:
    llama = llama_settings(numbers, norm_eps="layer_norm_eps")
    return {**llama, "rope_parameters": rope(numbers, partial_rotary_factor=TURNED)}


def spec(config: Any) -> ModelSpec:
    if getattr(config, "qk_layernorm", False):
        raise ValueError("model: StableLM with a norm for each head (qk_layernorm, StableLM 2 12B) is not supported")
    llama = llama_spec(config, head_dim=config.hidden_size // config.num_attention_heads)
    counts = (
        SampledAttribute("self_attn", "num_heads", lambda kept: kept.heads),
        SampledAttribute("self_attn", "num_key_value_heads", lambda kept: kept.kv_heads),
    )
    return replace(llama, attributes=(*llama.attributes, *counts))


FAMILY = Family(
    spec,
    settings,
    defaults={**LLAMA_LIKE, "norm_eps": 1e-5},
    problems=lambda numbers: head_problems(numbers, TURNED),
)
