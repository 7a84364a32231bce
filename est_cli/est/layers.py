"""Modules with sampled parameters and the router's layers, made by swapping the class of modules that are there.

A swapped module keeps its parameters under their names, so saving, loading, DDP and the optimizer see the model they
know. Its own forward runs; where that reads a sampled parameter it finds the entries of the units that run. With
nothing sampled, and for reads from outside of a forward, it is the parameter itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)


_forwards = 0
"""How many forwards of these modules are running, one inside of the other."""


class Taken(NamedTuple):
    """The part of a parameter that takes part."""

    units: Tensor
    """(k,) int64, sorted."""
    dim: int
    """The dimension that the units lie along."""
    unit_size: int
    """Entries per unit."""
    scale: float
    """1/p with the realised p where the parameter sums over units, else 1."""

    def of(self, x: Tensor) -> Tensor:
        """A copy of the units of `x` that take part, times the scale."""
        whole = x if self.unit_size == 1 else x.unflatten(self.dim, (-1, self.unit_size))
        taken = whole.index_select(self.dim, self.units)
        if self.scale != 1.0:
            taken.mul_(self.scale)  # in place: the copy is ours and still in the cache
        return taken if self.unit_size == 1 else taken.flatten(self.dim, self.dim + 1)

    def add_gradient(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Add `gradient`, of what `of` gave and used up here, to that of the parameter."""
        fresh = parameter.grad is None
        whole = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = whole
        if self.unit_size > 1:
            whole, gradient = (x.unflatten(self.dim, (-1, self.unit_size)) for x in (whole, gradient))
        if self.scale != 1.0:
            gradient.mul_(self.scale)
        if fresh and whole.is_cuda:  # no atomic additions; on a CPU adding is the faster one
            whole.index_copy_(self.dim, self.units, gradient)
        else:
            whole.index_add_(self.dim, self.units, gradient)


class Packed(NamedTuple):
    """In the place of a Taken: a copy that was made before, a leaf of its own that several forward passes read."""

    leaf: Tensor
    taken: Taken

    def of(self, x: Tensor) -> Tensor:
        """The copy, whatever `x` is."""
        return self.leaf


class SampledModule(nn.Module):
    """A module of which only some units take part, or whose output is scaled (mixed in before its own class)."""

    est_taken: dict[str, Taken | Packed]
    """Parameter name -> what a read of it gives inside of a forward; of the others it gives the parameter."""
    est_branch_scale: float | Tensor
    """Factor on the whole output of a residual branch; a tensor of one number where it differs from step to step, since
    a compiled layer takes a tensor as an input and any other number as a constant."""
    est_branch_dropout: float
    """Share of the entries of that output which plain dropout takes away while the model trains."""

    def est_pack(self) -> None:
        """Copy what is taken of this module's parameters, once for all forwards until est_unpack."""
        for name, taken in self.est_taken.items():
            parameter = self._parameters[name]
            if parameter is not None:
                assert isinstance(taken, Taken), "unpacked between two steps"
                leaf = taken.of(parameter.detach()).requires_grad_(parameter.requires_grad)
                self.est_taken[name] = Packed(leaf, taken)

    def est_unpack(self) -> None:
        """Put the gradients of the copies into those of the parameters, which are read again from now on."""
        for name, packed in self.est_taken.items():
            if isinstance(packed, Packed):
                self.est_taken[name] = packed.taken
                parameter, gradient = self._parameters[name], packed.leaf.grad
                if parameter is not None and gradient is not None:
                    packed.taken.add_gradient(parameter, gradient)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        y = _inside(super().forward, args, kwargs)
        scale = self.est_branch_scale
        y = y if isinstance(scale, float) and scale == 1.0 else y * scale
        return F.dropout(y, self.est_branch_dropout, self.training) if self.est_branch_dropout else y


class Rows(NamedTuple):
    """Some sequences of a batch."""

    idx: Tensor
    """(k,) int64, sorted."""
    sequences: int
    """Of the batch."""

    def of(self, value: Any) -> Any:
        """What of an argument of a layer belongs to them: of a tensor whose first dimension is that of the sequences,
        and that has another one, these rows; inside of tuples and lists the same; anything else is for all."""
        if isinstance(value, tuple | list):
            parts = [self.of(part) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        whole = not isinstance(value, Tensor) or value.dim() < 2 or len(value) != self.sequences
        return value if whole else value.index_select(0, self.idx)

    def check(self, x: Tensor) -> None:
        """ValueError where the hidden states x (B, T, D) are those of another number of sequences."""
        if len(x) != self.sequences:
            raise ValueError(f"subnetwork: was drawn for {self.sequences} sequences, not for the {len(x)} of a batch")


class RoutedLayer(nn.Module):
    """A layer that the router can leave out (mixed in before the layer's own class): x_l = x_{l-1}; for all sequences
    of a batch, or for some of them.

    The decision is taken in `__call__`, outside hooks, checkpointing and a compiled forward: a skipped layer costs
    nothing and never shows up in a graph.
    """

    est_active: bool
    est_sequences: Rows | None = None
    """The sequences that it runs; None: all."""
    est_shown: Callable[[Tensor], None] | None = None
    """Is shown what the layer gives, where somebody measures it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _inside(super().forward, args, kwargs)  # modules of a layer may read each other's parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x, rows = args[0] if args else kwargs["hidden_states"], self.est_sequences
        if not self.est_active:
            return x
        if rows is not None:
            rows.check(x)
            args, kwargs = rows.of(args), {name: rows.of(value) for name, value in kwargs.items()}
        y = super().__call__(*args, **kwargs)
        if self.est_shown is not None:
            self.est_shown(y[0] if isinstance(y, tuple) else y)
        return y if rows is None else x.to(y.dtype).index_copy(0, rows.idx, y)


class OwnView:
    """A config as one module sees it: the numbers set here are this module's own, all else is the config's."""

    def __init__(self, shared: object) -> None:
        self._shared = shared

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_shared":  # looked for in copies that hold nothing yet
            raise AttributeError(name)
        return getattr(self._shared, name)


def swap(module: nn.Module, mixin: type[M], sampled: tuple[str, ...] = ()) -> M:
    """Put `mixin` before the module's own class, in place: nothing is copied and no parameter is renamed.

    Inside of a forward, a read of the parameters named in `sampled` gives what `est_taken` says.
    """
    key = (mixin, type(module), sampled)
    if key not in _SWAPPED:
        readers = {name: _reader(name) for name in sampled}
        _SWAPPED[key] = type(f"{mixin.__name__}{type(module).__name__}", (mixin, type(module)), readers)
    module.__class__ = _SWAPPED[key]
    return cast(M, module)


_SWAPPED: dict[tuple[type, type, tuple[str, ...]], type] = {}  # one class each, so that all layers share theirs


def _reader(name: str) -> property:
    def read(module: SampledModule) -> Tensor | None:
        parameter, taken = module._parameters[name], module.est_taken.get(name)
        return parameter if taken is None or parameter is None or not _forwards else taken.of(parameter)

    return property(read)


def _inside(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    global _forwards
    _forwards += 1
    try:
        return forward(*args, **kwargs)
    finally:
        _forwards -= 1
