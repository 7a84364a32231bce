"""SmolLM3: a Llama whose every fourth layer has no positions."""

from __future__ import annotations

from est_cli.families.shared.attention import LLAMA_LIKE, head_problems, llama_settings, llama_spec
from est_cli.families.shared.family import Family

FAMILY = Family(
    llama_spec,
    llama_settings,
    defaults={**LLAMA_LIKE, "tie_embeddings": True, "rope_theta": 5e6},
    problems=head_problems,
)
