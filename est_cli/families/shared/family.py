"""What a family's file says of it. Nothing heavy is imported: this is known before torch and transformers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from est_cli.est.spec import ModelSpec

GPT_NUMBERS = ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_positions")
"""The keys of `model.*` that an attention model cannot do without."""


@dataclass(frozen=True)
class Numbers:
    """The numbers that a model is made from: those of `model.*`, or the family's own where null stands there."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    mlp_size: int = 0
    max_positions: int = 0
    norm_eps: float = 0.0
    rope_theta: float = 0.0
    sliding_window: int | None = None
    state_size: int = 0
    tie_embeddings: bool = False


@dataclass(frozen=True)
class Logits:
    """What becomes of the LM head's product with the hidden states: y = factor * product, then cap * tanh(y / cap)."""

    factor: float = 1.0
    cap: float | None = None


def no_problems(numbers: Numbers) -> Iterator[str]:
    yield from ()


def plain_logits(config: Any) -> Logits:
    return Logits()


@dataclass(frozen=True)
class Family:
    """A family: `FAMILY` in the file that bears the name of its Hugging Face `model_type`."""

    spec: Callable[[Any], ModelSpec]
    """From a Hugging Face config, or anything with the attributes that `settings` names. ValueError for what such a
    config may say and EST cannot do."""
    settings: Callable[[Numbers], dict[str, Any]]
    """What a Hugging Face config is made with."""
    defaults: Mapping[str, Any]
    """The keys of `model.*` that have a meaning here beside `required`, and what null is (None: see `numbers`)."""
    required: tuple[str, ...] = GPT_NUMBERS
    problems: Callable[[Numbers], Iterator[str]] = no_problems
    """What is wrong with numbers that are in range each: `model.KEY: ...`, one line each."""
    logits: Callable[[Any], Logits] = plain_logits
    """From a Hugging Face config."""
    classes: Callable[[], tuple[type, type]] | None = None
    """Gives the config's class and the causal language model's where transformers does not have them; imports what is
    heavy only when it is called. None: transformers has them."""

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.required, *self.defaults)

    def numbers(self, given: Mapping[str, Any]) -> Numbers:
        """`given` holds every required key. By default there are as many KV heads as heads, the heads together are as
        wide as the model, and the MLP is four times as wide."""
        found: dict[str, Any] = {
            key: self.defaults.get(key) if given.get(key) is None else given[key] for key in self.keys
        }
        heads, hidden_size = found.get("num_heads"), given["hidden_size"]
        if heads:
            wide = {"num_kv_heads": heads, "head_dim": hidden_size // heads, "mlp_size": 4 * hidden_size}
            found |= {key: value for key, value in wide.items() if found.get(key) is None}
        return Numbers(**found)
