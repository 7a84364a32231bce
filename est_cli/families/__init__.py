"""Model families: one small file each, named like Hugging Face's `model_type`. A new file is a new family.

Those of other people are registered, or brought by the entry points `est_cli.families` of installed packages.
"""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from est_cli.common.plugins import Origin, Registry
from est_cli.est.spec import ModelSpec
from est_cli.families.shared.family import Family, Logits, Numbers

__all__ = [
    "FAMILIES",
    "Family",
    "Logits",
    "Numbers",
    "family_of",
    "logits_of",
    "origin_of",
    "register_family",
    "spec_of",
]

FAMILIES: tuple[str, ...] = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg))
"""The names of est's own families; their files are read when they are asked for."""

_RESERVED = (*FAMILIES, "hf")


class UnknownFamily(ValueError):
    """Nobody has a family of this name."""


_others = Registry("family", "est_cli.families", Family, _RESERVED)


def register_family(name: str, family: Family) -> None:
    """Make a family known in this process under its `model_type`. ValueError for a name that est has itself.

    The processes that a command starts do not see it; an entry point in the group `est_cli.families` is for all.
    """
    _others.register(name, family)


def origin_of(name: object) -> Origin | None:
    """The package that brings the family of this name; None for est's own and for what a program has registered."""
    return _others.origin(name)


def classes_of(name: object) -> tuple[type, type] | None:
    """The classes that somebody else's family brings for transformers; None where it brings none, and for est's own.

    ValueError where it cannot be loaded.
    """
    if not isinstance(name, str) or not _others.knows(name):
        return None
    classes = _others.get(name).classes
    return None if classes is None else classes()


def family_of(name: str) -> Family:
    """The family of this name. ValueError, naming all and the nearest, where there is none or it cannot be loaded."""
    if name in FAMILIES:
        return _own(name)
    if _others.knows(name):
        return _others.get(name)
    known = [*FAMILIES, *_others.names()]
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {close[0]}? Supported" if close else "; supported"
    own = "one of your own is brought by an installed package (docs/own-models.md)"
    raise UnknownFamily(f"{name!r} is not a supported family{hint} are {', '.join(known)}; {own}")


@cache
def _own(name: str) -> Family:
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
    if isinstance(name, str) and (name in FAMILIES or _others.knows(name)):
        try:
            return family_of(name)
        except ValueError as error:
            raise ValueError(f"model: {error}") from error
    known = ", ".join([*FAMILIES, *_others.names()])
    raise ValueError(f"model: the architecture {name!r} is not supported; supported are {known}")
