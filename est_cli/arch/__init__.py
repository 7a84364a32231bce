"""Model families: one small file each, from a Hugging Face config to the ModelSpec that EST works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from est_cli.arch import gpt2, llama
from est_cli.est.spec import ModelSpec

FAMILIES: dict[str, Callable[[Any], ModelSpec]] = {"gpt2": gpt2.spec, "llama": llama.spec}
"""Hugging Face `model_type` -> what makes the ModelSpec from the config."""


def spec_of(model_or_config: Any) -> ModelSpec:
    """The ModelSpec of a Hugging Face causal language model or of its config.

    Raises ValueError naming the supported families for any other architecture.
    """
    config = getattr(model_or_config, "config", model_or_config)
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise ValueError(f"model: the architecture {family!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[family](config)
