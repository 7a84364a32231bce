"""Qwen2 and Qwen2.5: a Llama with biases at queries, keys and values."""

from __future__ import annotations

from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family

FAMILY = Family(llama_spec, llama_settings, {**LLAMA_LIKE, "rope_theta": 1e6}, problems=head_problems)
