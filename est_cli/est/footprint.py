"""Which entries of a layer's parameters belong to heads and columns, and whether a specification names these.

Where the weights that sum over units are 0 for some of them, whatever belongs to these alone has no gradient any more.
That is found out without the specification's help, for parameters that it names and for those that it forgot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from .masked import Batch, entries, gradients_of, largest, layers_of, masked_copy, output_of
from .spec import ModelSpec, SampledParameter, Unit
from .subnetwork import Subnetwork

_NOTHING = 1e-12
"""A gradient below this share of the largest one says nothing: it is rounding, as a key's bias has it."""
_WORDS: dict[Unit, str] = {"head": "heads", "kv_head": "KV heads", "column": "columns"}
_UNITS: tuple[Unit, ...] = ("head", "kv_head", "column")


def check_units(plain: nn.Module, spec: ModelSpec, batch: Batch, draws: Mapping[str, Subnetwork]) -> None:
    """ValueError where a parameter of the first layer holds units and is not named, or holds others than it says."""
    full = gradients_of(plain, output_of(plain, batch))
    for draw in draws.values():
        if units := tuple(unit for unit in _UNITS if _drawn(draw, unit) is not None):
            look = _Look(plain, spec, batch, draw, units, full)
            look.refuse_unsummed()
            look.refuse_wrong()


class _Look:
    """At the gradients of the first layer's parameters, with and without the `units` that a draw leaves out."""

    def __init__(
        self,
        plain: nn.Module,
        spec: ModelSpec,
        batch: Batch,
        draw: Subnetwork,
        units: tuple[Unit, ...],
        full: dict[str, Tensor],
    ) -> None:
        self.plain, self.spec, self.batch, self.draw, self.units, self.full = plain, spec, batch, draw, units, full
        self.layer = layers_of(plain, spec)[0]
        names = {id(parameter): name for name, parameter in plain.named_parameters()}
        self.here = {name: names[id(parameter)] for name, parameter in self.layer.named_parameters()}
        self.known = {_place(parameter): parameter for parameter in spec.sampled}
        self.least = _NOTHING * max(map(largest, full.values()))

    def refuse_unsummed(self) -> None:
        """Where nothing sums over the units; what does is found by masking what computes them."""
        if any(parameter.scaled and parameter.unit in self.units for parameter in self.spec.sampled):
            return
        model = deepcopy(self.plain)
        layer = layers_of(model, self.spec)[0]
        for parameter in self.spec.sampled:
            weight = layer.get_submodule(parameter.path)._parameters.get(parameter.name)
            if weight is not None and parameter.unit in self.units:
                shape = [-1 if dim == parameter.dim else 1 for dim in range(weight.dim())]
                weight.data.mul_(entries(parameter, self.spec, self.draw, 0).view(shape))
        self._refuse_missing(self._gone(model))
        unit = _WORDS[self.units[0]]
        raise ValueError(f'spec: no projection has {unit} on its "in" side, so nothing sums over them')

    def refuse_wrong(self) -> None:
        masked, _ = masked_copy(self.plain, self.spec, self.draw, only=0)
        gone = self._gone(masked)
        for name in (name for name in gone if name in self.known):
            if any((run.unit or self.known[name].unit) in self.units for run in self.known[name].runs(self.spec.full)):
                self._refuse_other(gone[name], self.known[name])
        self._refuse_missing(gone)

    def _gone(self, masked: nn.Module) -> dict[str, _Gone]:
        found = gradients_of(masked, output_of(masked, self.batch))
        return {name: _Gone(self.full[place], found[place], self.least) for name, place in self.here.items()}

    def _refuse_missing(self, gone: dict[str, _Gone]) -> None:
        holding = [(name, dim) for name in gone if name not in self.known for dim in gone[name].dims()]
        for name, dim in holding[:1]:
            path, _, held = name.rpartition(".")
            shape = tuple(self.layer.get_parameter(name).shape)
            unit, where = self._unit_of(shape[dim]), "parameters"
            line = f'SampledParameter("{path}", "{held}", {shape}, "{unit}", dim={dim})'
            if held == "weight" and isinstance(self.layer.get_submodule(path), nn.Linear):
                line, where = self._projection(path, shape, unit, dim), "projections"
            raise ValueError(
                f"spec: {path or name} is missing: {held} of {self.spec.layers}.0.{path} holds {_WORDS[unit]} along "
                f"dimension {dim}; add {line} to {where}"
            )

    def _projection(self, path: str, shape: tuple[int, ...], unit: Unit, dim: int) -> str:
        return f'Projection("{path}", {shape[1]}, {shape[0]}, "{unit}", "{"in" if dim else "out"}")'

    def _unit_of(self, size: int) -> Unit:
        """The kind of a dimension of this size: KV heads where it is as wide as these."""
        grouped = self.spec.group_size > 1 and size == self.spec.num_kv_heads * self.spec.head_dim
        return "kv_head" if grouped and "kv_head" in self.units else self.units[0]

    def _refuse_other(self, gone: _Gone, parameter: SampledParameter) -> None:
        if parameter.scaled or self._fits(gone, parameter):
            return
        others = [replace(parameter, unit=unit, layout=()) for unit in _UNITS if unit != parameter.unit]
        better = [f'"{other.unit}"' for other in others if self._fills(other) and self._fits(gone, other)]
        told = f"its unit is {better[0]}" if better else "look at its unit, its layout and the number of heads"
        raise ValueError(
            f"spec: {_place(parameter)} does not hold {_WORDS[parameter.unit]} ({self.spec.full.of(parameter.unit)} of "
            f"them) where the specification has them: with some masked, other entries lose their gradient; {told}"
        )

    def _fits(self, gone: _Gone, parameter: SampledParameter) -> bool:
        found, told = gone.along(parameter.dim)
        return torch.equal(found, (entries(parameter, self.spec, self.draw, 0) == 0) & told)

    def _fills(self, parameter: SampledParameter) -> bool:
        count = self.spec.full.of(parameter.unit)
        return count > 0 and parameter.shape[parameter.dim] % count == 0


class _Gone:
    """Where a gradient vanishes that was above `least`."""

    def __init__(self, full: Tensor, masked: Tensor, least: float) -> None:
        self._told = full.abs() > least
        self._left = self._told & (masked != 0)

    def along(self, dim: int) -> tuple[Tensor, Tensor]:
        """(size,) bool each: slices in which nothing is left of a gradient, and those that had one."""
        others = [other for other in range(self._told.dim()) if other != dim]
        told, left = (x.any(others) if others else x for x in (self._told, self._left))
        return told & ~left, told

    def dims(self) -> Iterator[int]:
        """Dimensions along which some slices are gone and others are not."""
        for dim in range(self._told.dim()):
            gone, told = self.along(dim)
            if gone.any() and not torch.equal(gone, told):
                yield dim


def _place(parameter: SampledParameter) -> str:
    return ".".join(filter(None, (parameter.path, parameter.name)))


def _drawn(draw: Subnetwork, unit: Unit) -> Tensor | None:
    return {"head": draw.head_idx, "kv_head": draw.kv_idx, "column": draw.mlp_idx}[unit]
