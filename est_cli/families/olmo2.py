"""OLMo 2: norms behind attention and MLP instead of before them, and norms over all queries and all keys of a layer.

These two are sampled with the heads: they normalise over the heads that run.
"""

from __future__ import annotations

from typing import Any

from est_cli.est.spec import ModelSpec, SampledParameter
from est_cli.families.shared.attention import (
    LLAMA_LIKE,
    NORMS_BEHIND,
    head_dim_of,
    head_problems,
    llama_settings,
    llama_spec,
)
from est_cli.families.shared.family import Family


def spec(config: Any) -> ModelSpec:
    queries, keys = (n * head_dim_of(config) for n in (config.num_attention_heads, config.num_key_value_heads))
    norms = (
        SampledParameter("self_attn.q_norm", "weight", (queries,), "head"),
        SampledParameter("self_attn.k_norm", "weight", (keys,), "kv_head"),
    )
    return llama_spec(config, branches=NORMS_BEHIND, parameters=norms)


FAMILY = Family(spec, llama_settings, {**LLAMA_LIKE, "rope_theta": 500_000.0}, problems=head_problems)
