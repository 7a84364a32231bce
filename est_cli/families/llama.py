"""Llama (and TinyLlama): separate projections, grouped-query attention, gated MLP."""

from __future__ import annotations

from typing import Any

from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family, Numbers


def settings(numbers: Numbers) -> dict[str, Any]:
    return {**llama_settings(numbers), "head_dim": numbers.head_dim}


FAMILY = Family(llama_spec, settings, {**LLAMA_LIKE, "head_dim": None}, problems=head_problems)
