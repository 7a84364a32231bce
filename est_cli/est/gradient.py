"""Which entries of a layer's gradients subnetworks can make other than zero.

That is what processes must tell each other, and what an optimizer may change that leaves the rest alone.

Shapes: U units on the sampled side of a weight, S entries per unit, k units kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .layers import Packed, RoutedLayer, SampledModule
from .spec import UNITS
from .subnetwork import Subnetwork
from .wrap import EstHandle, Units


@dataclass(frozen=True)
class GradientPart:
    """Some units of a parameter's gradient, or (`units` None) all of it."""

    parameter: Tensor
    """A parameter, or the packed copy of one, which is whole."""
    units: Tensor | None = None
    """(k,) int64 on the parameter's device."""
    dim: int = 0
    """The dimension that the units lie along."""
    unit_size: int = 1

    @property
    def numel(self) -> int:
        """Entries in it."""
        if self.units is None:
            return self.parameter.numel()
        return self.parameter.numel() // self.parameter.shape[self.dim] * self.unit_size * len(self.units)

    def gather(self, out: Tensor) -> None:
        """Copy this part of the parameter's gradient into `out`, (numel,), which may be of another type."""
        grad = self._by_unit(self._gradient)
        if self.units is None:
            out.view(grad.shape).copy_(grad)
        elif out.dtype == grad.dtype:
            torch.index_select(grad, self.dim, self.units, out=out.view(self._taken_shape(grad)))
        else:
            out.view(self._taken_shape(grad)).copy_(grad.index_select(self.dim, self.units))

    def scatter(self, values: Tensor) -> None:
        """The reverse: `values`, (numel,), become this part of the gradient."""
        grad = self._by_unit(self._gradient)
        self.put(self._gradient, values.view(grad.shape if self.units is None else self._taken_shape(grad)))

    def of(self, tensor: Tensor) -> Tensor:
        """A copy of this part of a tensor that is laid out as the parameter, such as a moment of it."""
        return tensor.clone() if self.units is None else self._by_unit(tensor).index_select(self.dim, self.units)

    def put(self, tensor: Tensor, values: Tensor) -> None:
        """The reverse: `values`, shaped as `of` gives them, become this part of such a tensor."""
        if self.units is None:
            tensor.copy_(values)
        else:
            self._by_unit(tensor).index_copy_(self.dim, self.units, values.to(tensor.dtype))

    def pieces(self, tensors: Sequence[Tensor], entries: int) -> Iterator[tuple[GradientPart, Sequence[Tensor]]]:
        """This part of `tensors`, laid out as the parameter, cut into parts of views of about so many entries."""
        assert self.units is not None
        along = len(self.units) if self.dim == 0 else tensors[0].shape[0]
        count = max(1, entries * along // self.numel)
        if self.dim == 0:
            yield from ((replace(self, units=units), tensors) for units in self.units.split(count))
        else:
            yield from ((self, views) for views in zip(*(t.split(count) for t in tensors), strict=True))

    @property
    def _gradient(self) -> Tensor:
        grad = self.parameter.grad
        assert grad is not None, "a parameter of a layer that ran has no gradient"
        return grad

    def _by_unit(self, tensor: Tensor) -> Tensor:
        """With the sampled dimension split into (U, S)."""
        whole = self.units is None or self.unit_size == 1
        return tensor if whole else tensor.unflatten(self.dim, (-1, self.unit_size))

    def _taken_shape(self, grad: Tensor) -> list[int]:
        assert self.units is not None
        return [len(self.units) if dim == self.dim else size for dim, size in enumerate(grad.shape)]


def whole_parts(layer: nn.Module) -> list[GradientPart]:
    """Every parameter of a layer, whole."""
    return [GradientPart(parameter) for parameter in layer.parameters()]


def sampled_parts(layer: nn.Module) -> list[GradientPart]:
    """What the subnetwork that is active in a layer can change: of sampled parameters only the units that run."""
    sampled = dict(_sampled(layer))
    return [sampled.get(parameter, GradientPart(parameter)) for parameter in layer.parameters()]


def packed_copies(layer: nn.Module) -> list[Tensor]:
    """What EstHandle.pack made of this layer's parameters."""
    return [part.parameter for parameter, part in _sampled(layer) if part.parameter is not parameter]


def reached_parts(handle: EstHandle, subnetworks: Sequence[Subnetwork]) -> list[GradientPart]:
    """What `subnetworks` together can change of the layers that any of them runs.

    They are on the CPU, as they were drawn; where there is but one, it must be active.
    """
    if len(set(subnetworks)) == 1:
        running = [layer for layer in handle.layers if isinstance(layer, RoutedLayer) and layer.est_active]
        return [part for layer in running for part in sampled_parts(layer)]
    return [part for number in range(len(handle.layers)) for part in _united_parts(handle, number, subnetworks)]


def _united_parts(handle: EstHandle, number: int, subnetworks: Sequence[Subnetwork]) -> Iterator[GradientPart]:
    """Of one layer."""
    running = [drawn for drawn in subnetworks if drawn.layer_idx is None or number in drawn.layer_idx]
    if not running:
        return
    layer, spec = handle.layers[number], handle.spec
    heads, kv_heads, columns = (
        _united([drawn.units(unit, number) for drawn in running], count)
        for unit, count in zip(UNITS, spec.full, strict=True)
    )
    united = Subnetwork(head_idx=heads, kv_idx=kv_heads, mlp_idx=columns)
    units = Units(spec, united.to(next(layer.parameters()).device))
    parts = {}
    for held in spec.sampled:
        parameter, taken = layer.get_submodule(held.path)._parameters.get(held.name), units.taken(held)
        if parameter is not None and taken is not None:
            parts[parameter] = GradientPart(parameter, taken[0].units, taken[0].dim, taken[0].unit_size)
    yield from (parts.get(parameter, GradientPart(parameter)) for parameter in layer.parameters())


def _united(drawn: Sequence[Tensor | None], count: int) -> Tensor | None:
    """(1, k) the units that any of several (k,) `drawn` has; None: all `count` of them."""
    rows = [idx for idx in drawn if idx is not None]
    if len(rows) < len(drawn):
        return None
    units = torch.unique(torch.cat(rows))
    return None if len(units) == count else units.unsqueeze(0)


def _sampled(layer: nn.Module) -> Iterator[tuple[nn.Parameter, GradientPart]]:
    for module in layer.modules():
        if isinstance(module, SampledModule):
            for name, taken in module.est_taken.items():
                parameter = module._parameters[name]
                if parameter is None:
                    continue
                if isinstance(taken, Packed):
                    yield parameter, GradientPart(taken.leaf)
                else:
                    yield parameter, GradientPart(parameter, taken.units, taken.dim, taken.unit_size)
