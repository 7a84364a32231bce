"""Which modules of a model hold the attention heads, MLP columns and layers that EST samples. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["head", "kv_head", "column"]
Side = Literal["in", "out"]


@dataclass(frozen=True)
class Projection:
    """One linear projection inside a layer and the side of it that the sampled units stand on.

    The sampled side is `blocks` runs of all units one after another, each unit `unit_size` features wide: GPT-2's fused
    c_attn is 3 blocks (q, k, v) of N_H units of head_dim features.
    """

    path: str
    """Module path relative to the layer."""
    in_features: int
    out_features: int
    unit: Unit
    side: Side
    blocks: int = 1
    transposed: bool = False
    """Whether the weight is stored (in, out), as in GPT-2's Conv1D, instead of nn.Linear's (out, in)."""


@dataclass(frozen=True)
class SampledAttribute:
    """An attribute that a module reads in its forward and that depends on how many heads run."""

    path: str
    """Module path relative to the layer."""
    name: str
    value: Callable[[int, int], int]
    """(query heads, KV heads) of the subnetwork -> the attribute's value."""


@dataclass(frozen=True)
class ModelSpec:
    """What EST must know of a decoder-only Transformer. All layers are alike.

    `num_heads` (N_H) counts query heads, `num_kv_heads` the key/value heads; under grouped-query attention the unit of
    sampling is a KV group with its query heads (see SamplingOptions.kv_groups).
    """

    family: str
    layers: str
    """Module path of the list of layers."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    projections: tuple[Projection, ...]
    attributes: tuple[SampledAttribute, ...] = ()

    @property
    def group_size(self) -> int:
        """Query heads per KV head."""
        return self.num_heads // self.num_kv_heads

    def unit_count(self, unit: Unit) -> int:
        """How many units of that kind one full layer has."""
        return {"head": self.num_heads, "kv_head": self.num_kv_heads, "column": self.mlp_size}[unit]
