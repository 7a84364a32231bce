"""The model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Family(StrEnum):
    """How the model is made: from the numbers in `model.*`, or (`hf`) from `model.name_or_path`."""

    gpt2 = "gpt2"
    llama = "llama"
    hf = "hf"


@dataclass
class ModelConfig:
    name: str = "gpt2_tiny"
    """Name of the preset; used in run names only."""
    family: Family = Family.gpt2
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    """Key/value heads of a Llama (grouped-query attention); None: as many as num_heads."""
    mlp_size: int | None = None
    """MLP columns; None: four times hidden_size."""
    max_positions: int | None = None
    """The longest sequence the model is made for; rotary models have no table of that length but keep the promise."""
    dropout: float = 0.0
    tie_embeddings: bool | None = None
    """Whether the LM head shares the embedding's weight; None: as the family does (gpt2 yes, llama no)."""
    rope_theta: float | None = None
    norm_eps: float | None = None
    """Epsilon of the norms; None: as the family does (gpt2 1e-5, llama 1e-6)."""
    name_or_path: str | None = None
    """family=hf: a local config or checkpoint folder, or a hub id."""
    pretrained: bool = True
    """family=hf: continue from the weights found there; false: only the architecture, freshly initialised."""
    fused_activation: bool = True
    """Compute GPT-2's `gelu_new` by torch's fused GELU, the same function to rounding; config.json then says
    `gelu_pytorch_tanh`."""
