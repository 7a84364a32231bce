"""Model families: one small file each, named like Hugging Face's `model_type`. A new file is a new family."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from est_cli.est.spec import ModelSpec
from est_cli.families.shared.family import Family, Logits

FAMILIES: tuple[str, ...] = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg))
"""The names of all families; their files are read when they are asked for."""


@cache
def family_of(name: str) -> Family:
    """The family of this name. ValueError, naming all and the nearest, where there is none."""
    if name not in FAMILIES:
        close = difflib.get_close_matches(str(name), FAMILIES, n=1)
        hint = f"; did you mean {close[0]}? Supported" if close else "; supported"
        raise ValueError(f"{name!r} is not a supported family{hint} are {', '.join(FAMILIES)}")
    family: Family = import_module(f"{__name__}.{name}").FAMILY
    return family


def spec_of(model_or_config: Any) -> ModelSpec:
    """The ModelSpec of a Hugging Face causal language model or of its config.

    Raises ValueError naming the supported families for any other architecture.
    """
    config = getattr(model_or_config, "config", model_or_config)
    return _family_of_config(config).spec(config)


def logits_of(config: Any) -> Logits:
    """How a model of this Hugging Face config makes its logits of what the LM head gives. ValueError as spec_of."""
    return _family_of_config(config).logits(config)


def _family_of_config(config: Any) -> Family:
    name = getattr(config, "model_type", None)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"model: the architecture {name!r} is not supported; supported are {', '.join(FAMILIES)}")
    return family_of(name)
