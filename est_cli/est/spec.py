"""Which parameters of a model hold the heads, MLP columns and layers that EST samples. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple, get_args

Unit = Literal["head", "kv_head", "column"]
Side = Literal["in", "out"]
UNITS: tuple[Unit, ...] = get_args(Unit)


def _refuse_word(of: str, key: str, word: object, words: Any) -> None:
    if word not in get_args(words):
        raise ValueError(f"spec: {of}: {key} is {word!r}; it is one of {', '.join(map(repr, get_args(words)))}")


def _refuse_untupled(of: str, key: str, found: object, kind: type) -> None:
    """`(x)` without its comma is no tuple, and a path in its place would be read letter by letter."""
    if not isinstance(found, tuple) or not all(isinstance(one, kind) for one in found):
        raise ValueError(f"spec: {of}: {key} must be a tuple of {kind.__name__}; one alone is (x,), with its comma")


class Kept(NamedTuple):
    """How many units of each kind run in a layer."""

    heads: int
    kv_heads: int
    columns: int

    def of(self, unit: Unit) -> int:
        return {"head": self.heads, "kv_head": self.kv_heads, "column": self.columns}[unit]


@dataclass(frozen=True)
class UnitSpan:
    """A stretch of a sampled dimension: all units one after another, each `width` entries wide.

    With `fixed` it holds no units, but `width` entries that always take part.
    """

    width: int
    fixed: bool = False
    unit: Unit | None = None
    """None: the parameter's; another one where a fused parameter holds several kinds (queries, then keys and values of
    fewer heads)."""

    def __post_init__(self) -> None:
        if self.unit is not None:
            _refuse_word(f"UnitSpan({self.width})", "unit", self.unit, Unit)

    def entries(self, kept: Kept, unit: Unit) -> int:
        """How many take part, in a parameter of `unit`."""
        return self.width if self.fixed else self.width * kept.of(self.unit or unit)


@dataclass(frozen=True)
class SampledParameter:
    """A parameter of which only the entries of the units that run take part."""

    path: str
    """Path, relative to the layer, of the module that holds it; "" is the layer itself."""
    name: str
    shape: tuple[int, ...]
    unit: Unit
    dim: int = 0
    """The dimension that the units lie along."""
    layout: tuple[UnitSpan, ...] = ()
    """How they lie there; empty: one run of all units."""
    scaled: bool = False
    """Whether what it multiplies is summed over units, so that it carries the factor 1/p (paper, section 3.1)."""
    products: int = 0
    """Multiply-adds of each entry per token: 1 for the weights of projections and convolutions."""

    def __post_init__(self) -> None:
        of = f"SampledParameter({self.path!r}, {self.name!r})"
        _refuse_word(of, "unit", self.unit, Unit)
        _refuse_untupled(of, "layout", self.layout, UnitSpan)

    def runs(self, full: Kept) -> tuple[UnitSpan, ...]:
        """Its layout where `full` are all units; ValueError where these do not fill the dimension."""
        size = self.shape[self.dim]
        runs = self.layout or (UnitSpan(size // full.of(self.unit)),)
        if sum(run.entries(full, self.unit) for run in runs) != size:
            count = full.of(self.unit)
            raise ValueError(f"model: {self.path}.{self.name} has {size} entries, which {count} units do not fill")
        return runs

    def kept_entries(self, full: Kept, kept: Kept) -> int:
        """How many entries take part when `kept` of the units `full` run."""
        along = sum(run.entries(kept, self.unit) for run in self.runs(full))
        return prod(self.shape) // self.shape[self.dim] * along


@dataclass(frozen=True)
class Projection:
    """A linear projection inside a layer and the side of it that the sampled units stand on.

    Units on its `out` side choose what it computes, with its bias; units on its `in` side choose what it sums over.
    `in_features` and `out_features` are nn.Linear's, of the complete model.
    """

    path: str
    """Module path relative to the layer."""
    in_features: int
    out_features: int
    unit: Unit
    """What lies along that side: "head" (query heads), "kv_head" or "column"."""
    side: Side
    """"out" for what computes heads or columns (queries, gate and up), "in" for what sums over them."""
    layout: tuple[UnitSpan, ...] = ()
    """How the units lie on that side where it is fused: GPT-2's c_attn is three runs (q, k, v) of heads."""
    transposed: bool = False
    """Whether the weight is stored (in, out), as in GPT-2's Conv1D, instead of nn.Linear's (out, in)."""

    def __post_init__(self) -> None:
        of = f"Projection({self.path!r})"
        _refuse_word(of, "unit", self.unit, Unit)
        _refuse_word(of, "side", self.side, Side)
        _refuse_untupled(of, "layout", self.layout, UnitSpan)

    @property
    def weight(self) -> SampledParameter:
        shape = (self.in_features, self.out_features) if self.transposed else (self.out_features, self.in_features)
        dim = int((self.side == "out") == self.transposed)
        return SampledParameter(
            self.path, "weight", shape, self.unit, dim, self.layout, scaled=self.side == "in", products=1
        )

    @property
    def bias(self) -> SampledParameter | None:
        """Of the units' side; the bias behind a sum over units always takes part, unscaled."""
        if self.side == "in":
            return None
        return SampledParameter(self.path, "bias", (self.out_features,), self.unit, layout=self.layout)


@dataclass(frozen=True)
class SampledAttribute:
    """A number that a module reads in its forward and that depends on how many units run."""

    path: str
    """Module path relative to the layer."""
    name: str
    """`config.NAME` where the module reads it there: it alone finds the number, the config stays as it is."""
    value: Callable[[Kept], int]
    """`lambda kept: kept.heads`, say; also `kv_heads`, `columns`, or what is computed of them."""


@dataclass(frozen=True)
class ModelSpec:
    """What EST must know of a model. All layers are alike.

    `num_heads` (N_H) counts query heads, `num_kv_heads` the key/value heads; under grouped-query attention the unit of
    sampling is a KV group with its query heads (see SamplingOptions.kv_groups). A model without attention has channels
    or heads of another kind in their place, one without an MLP beside them `mlp_size` 0.
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
    """Rows of the LM head; 0: none."""
    max_positions: int | None
    """None: no limit."""
    projections: tuple[Projection, ...]
    branches: tuple[str, ...]
    """Module paths, relative to the layer, whose outputs are added to the residual stream."""
    parameters: tuple[SampledParameter, ...] = ()
    """Sampled parameters that are no projection's: norms across units, convolutions and the like."""
    attributes: tuple[SampledAttribute, ...] = ()
    attention: bool = True
    """Whether heads attend: their two products of T x T per head are FLOPs, and a kernel must suit them."""

    def __post_init__(self) -> None:
        held = {"projections": Projection, "branches": str, "parameters": SampledParameter}
        for key, kind in (held | {"attributes": SampledAttribute}).items():
            _refuse_untupled(f"family {self.family}", key, getattr(self, key), kind)

    @property
    def splits_groups(self) -> bool:
        """Whether single query heads of a KV group can be left out: something computes query heads one by one, as
        a matrix does not that holds whole groups (queries, key, value of the first, then of the next)."""
        computed = [parameter for parameter in self.sampled if not parameter.scaled]
        return self.group_size > 1 and any(
            (run.unit or parameter.unit) == "head"
            for parameter in computed
            for run in parameter.layout or (UnitSpan(1),)
            if not run.fixed
        )

    @property
    def group_size(self) -> int:
        """Query heads per KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def full(self) -> Kept:
        """All units."""
        return Kept(self.num_heads, self.num_kv_heads, self.mlp_size)

    @property
    def sampled(self) -> tuple[SampledParameter, ...]:
        """Every sampled parameter of a layer. A projection's bias is among them whether the model has one or not."""
        held = [held for p in self.projections for held in (p.weight, p.bias) if held is not None]
        return (*held, *self.parameters)
