"""Phi-3 and Phi-4-mini: a Llama with query, key and value in one matrix, gate and up in another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from est_cli.est.spec import ModelSpec, Projection, SampledAttribute, UnitSpan
from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {**llama_settings(numbers), "sliding_window": numbers.sliding_window}


def spec(config: Any) -> ModelSpec:
    llama = llama_spec(config)
    d, mlp, width = llama.hidden_size, llama.mlp_size, llama.head_dim
    heads = (llama.num_heads + 2 * llama.num_kv_heads) * width
    queries, keys = UnitSpan(width), UnitSpan(width, unit="kv_head")
    out, down = (projection for projection in llama.projections if projection.side == "in")
    return replace(
        llama,
        projections=(
            Projection("self_attn.qkv_proj", d, heads, "head", "out", (queries, keys, keys)),
            out,
            Projection("mlp.gate_up_proj", d, 2 * mlp, "column", "out", (UnitSpan(1), UnitSpan(1))),
            down,
        ),
        attributes=(
            *llama.attributes,
            SampledAttribute("self_attn", "num_key_value_heads", lambda kept: kept.kv_heads),
            SampledAttribute("self_attn", "config.num_attention_heads", lambda kept: kept.heads),
        ),
    )


FAMILY = Family(
    spec,
    settings,
    defaults={**LLAMA_LIKE, "norm_eps": 1e-5, "sliding_window": None},
    problems=head_problems,
)
