"""Sampled projections and the router's layers, made by swapping the class of modules that are already there.

A swapped module keeps its parameters under their names, so saving, loading, DDP and the optimizer see the model they
know. With nothing sampled it runs its parent's forward untouched.

Shapes: B batch, T tokens, D model, U units on the sampled side, S features per unit, k units kept.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .spec import Projection

M = TypeVar("M", bound=nn.Module)


class SampledProjection(nn.Module):
    """A linear projection of which only some units take part (mixed in before the module's own class)."""

    weight: Tensor
    bias: Tensor | None
    est_projection: Projection
    est_unit_size: int
    est_units: Tensor | None
    """(k,) units on the sampled side, or None: all."""
    est_scale: float
    """1/p with the realised p, on the weight of a projection whose inputs are sampled; the bias is not scaled."""
    est_layer_scale: float
    """Factor on the whole output: the residual branch under layer_scale=inverse."""

    def forward(self, x: Tensor) -> Tensor:  # (B, T, in) -> (B, T, out), the sampled side shortened to k units
        y = super().forward(x) if self.est_units is None else self._sampled(x, self.est_units)
        return y if self.est_layer_scale == 1.0 else y * self.est_layer_scale

    @property
    def sampled_dim(self) -> int:
        """The dimension of the weight that the sampled units lie along."""
        return int((self.est_projection.side == "out") == self.est_projection.transposed)

    def _sampled(self, x: Tensor, units: Tensor) -> Tensor:
        projection, bias = self.est_projection, self.bias
        sampled_out = projection.side == "out"
        scale = 1.0 if sampled_out else self.est_scale
        weight = _take(self.weight, self.sampled_dim, units, self.est_unit_size, scale)
        if sampled_out and bias is not None:
            bias = _take(bias, 0, units, self.est_unit_size)
        return F.linear(x, weight.t() if projection.transposed else weight, bias)


class RoutedLayer(nn.Module):
    """A layer that the router can leave out (mixed in before the layer's own class): x_l = x_{l-1}.

    The decision is taken in `__call__`, outside hooks, checkpointing and a compiled forward: a skipped layer costs
    nothing and never shows up in a graph.
    """

    est_active: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.est_active:
            return super().__call__(*args, **kwargs)
        return args[0] if args else kwargs["hidden_states"]


def swap(module: nn.Module, mixin: type[M]) -> M:
    """Put `mixin` before the module's own class, in place: nothing is copied and no parameter is renamed."""
    parents = (mixin, type(module))
    if parents not in _SWAPPED:
        _SWAPPED[parents] = type(f"{mixin.__name__}{type(module).__name__}", parents, {})
    module.__class__ = _SWAPPED[parents]
    return cast(M, module)


_SWAPPED: dict[tuple[type, type], type] = {}  # one class per pair, so that all layers of a model share theirs


def _take(x: Tensor, dim: int, units: Tensor, unit_size: int, scale: float = 1.0) -> Tensor:
    """Keep whole units of `unit_size` entries along `dim` of a weight (2-d) or bias (1-d), times `scale`."""
    whole = x if unit_size == 1 else x.unflatten(dim, (-1, unit_size))
    taken = whole.index_select(dim, units)
    if scale != 1.0:
        taken.mul_(scale)  # in place: the copy is ours and still in the cache
    return taken if unit_size == 1 else taken.flatten(dim, dim + 1)
