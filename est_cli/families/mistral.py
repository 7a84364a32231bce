"""Mistral: a Llama, of which some have a sliding window in every layer."""

from __future__ import annotations

from typing import Any

from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {**llama_settings(numbers), "head_dim": numbers.head_dim, "sliding_window": numbers.sliding_window}


FAMILY = Family(
    llama_spec,
    settings,
    defaults={**LLAMA_LIKE, "norm_eps": 1e-5, "head_dim": None, "sliding_window": None},
    problems=head_problems,
)
