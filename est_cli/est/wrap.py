"""apply_est: give an existing model the two states that EST knows, a subnetwork or the full model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layers import OwnView, RoutedLayer, Rows, SampledModule, Taken, swap
from .spec import Kept, ModelSpec, SampledAttribute, SampledParameter, Unit, UnitSpan
from .subnetwork import FULL, INDICES, Subnetwork


class _Holder(NamedTuple):
    """A module path with the parameters that are sampled there, in every layer."""

    modules: tuple[SampledModule, ...]
    """One for each layer."""
    parameters: tuple[SampledParameter, ...]
    is_branch: bool


class EstHandle:
    """Switches the wrapped model between subnetworks. A subnetwork must stay active until its backward is done."""

    def __init__(self, spec: ModelSpec, layers: tuple[nn.Module, ...], holders: tuple[_Holder, ...]) -> None:
        self.spec = spec
        self.layers = layers
        self._holders = holders
        self._attributes = [(_owners(layers, a), a.name.rpartition(".")[2], a.value) for a in spec.attributes]
        self._active: Subnetwork | None = None

    def activate(self, subnetwork: Subnetwork) -> None:
        """Run only `subnetwork` from now on; nothing is touched if it is active already, as FULL is all along at p = 1.
        What was packed must be unpacked before.

        Indices are sent to the model's device in one copy, or one for each number of units that layers keep, without
        waiting for it. Raises ValueError where the subnetwork was drawn for a model with another number of layers.
        """
        if subnetwork is self._active:
            return
        self._check(subnetwork)
        device = next(self.layers[0].parameters()).device
        parts = [(layers, part.to(device)) for layers, part in subnetwork.alike(self.spec)]
        for layers, part in parts:
            self._take(layers, part)
        self._route(parts[0][1])  # which layers run, and which sequences, each of the parts says of all layers
        self._active = subnetwork

    def _take(self, layers: Sequence[int], part: Subnetwork) -> None:
        """Have these layers read what `part` takes, whose rows are theirs."""
        units, scales = Units(self.spec, part), _scales(part, len(layers))
        running = [(row, n) for row, n in enumerate(layers) if part.layer_idx is None or n in part.layer_idx]
        for holder in self._holders:
            taken = {parameter.name: units.taken(parameter) for parameter in holder.parameters}
            dropout = part.dropout if holder.is_branch else 0.0
            for row, number in running:  # a module's own __setattr__ costs more than the rest of this
                here = {name: parts[row] for name, parts in taken.items() if parts is not None}
                scale = scales[row] if holder.is_branch else 1.0
                holder.modules[number].__dict__.update(
                    est_taken=here, est_branch_scale=scale, est_branch_dropout=dropout
                )
        for owners, name, value in self._attributes:
            for number in layers:
                owners[number].__dict__[name] = value(units.kept)

    def pack(self) -> None:
        """Gather the entries of the active subnetwork once, for all micro-batches until unpack().

        A sampled parameter then reads as that copy, a leaf whose gradient adds up in the size of the copy: without it
        each micro-batch gathers anew, and fills and adds gradients of the size of the whole parameter. For one backward
        pass there is nothing to gain.
        """
        for module in self._running():
            module.est_pack()

    def unpack(self) -> None:
        """The gradients of the copies become part of the parameters'; nothing where nothing is packed."""
        for module in self._running():
            module.est_unpack()

    def _running(self) -> Iterator[SampledModule]:
        for holder in self._holders:
            for layer, module in zip(self.layers, holder.modules, strict=True):
                if isinstance(layer, RoutedLayer) and layer.est_active:
                    yield module

    def activate_full(self) -> None:
        """Run the complete model, for evaluation, saving and the last stage."""
        self.activate(FULL)

    def _check(self, subnetwork: Subnetwork) -> None:
        drawn = (*(getattr(subnetwork, name) for name in INDICES), subnetwork.layer_scales, subnetwork.kept)
        drawn = (*drawn, subnetwork.sequence_idx)
        rows = {len(of_layers) for of_layers in drawn if of_layers is not None}
        if rows - {len(self.layers)} or max(subnetwork.layer_idx or (0,)) >= len(self.layers):
            raise ValueError(f"subnetwork: was not drawn for a model of {len(self.layers)} layers")

    def _route(self, subnetwork: Subnetwork) -> None:
        idx, drawn = subnetwork.layer_idx, subnetwork.sequence_idx
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, RoutedLayer)
            some = drawn is not None and number not in subnetwork.whole_layers
            layer.est_active = idx is None or number in idx
            layer.est_sequences = Rows(drawn[number], subnetwork.sequences) if drawn is not None and some else None


def _scales(subnetwork: Subnetwork, num_layers: int) -> Sequence[float | Tensor]:
    """The factor on the branches of each layer."""
    scales = subnetwork.layer_scales
    return [subnetwork.layer_scale] * num_layers if scales is None else scales.unbind()


class Units:
    """What a subnetwork takes of each parameter."""

    def __init__(self, spec: ModelSpec, subnetwork: Subnetwork) -> None:
        self._idx: dict[Unit, Tensor | None] = {
            "head": subnetwork.head_idx,
            "kv_head": subnetwork.kv_idx,
            "column": subnetwork.mlp_idx,
        }
        self._rows: dict[tuple[Unit, tuple[UnitSpan, ...]], tuple[Sequence[Tensor], int] | None] = {}
        self.full, self._power = spec.full, subnetwork.unit_power
        self.kept = Kept(
            *(n if idx is None else idx.shape[1] for n, idx in zip(spec.full, self._idx.values(), strict=True))
        )

    def taken(self, parameter: SampledParameter) -> list[Taken] | None:
        """For each layer; None: all units."""
        unit, runs = parameter.unit, parameter.runs(self.full)
        if (unit, runs) not in self._rows:
            self._rows[unit, runs] = self._along(unit, runs)
        found = self._rows[unit, runs]
        if found is None:
            return None
        rows, unit_size = found
        scale = (self.full.of(unit) / self.kept.of(unit)) ** self._power if parameter.scaled else 1.0
        return [Taken(units, parameter.dim, unit_size, scale) for units in rows]

    def _along(self, unit: Unit, runs: tuple[UnitSpan, ...]) -> tuple[Sequence[Tensor], int] | None:
        """For each layer what is taken along a dimension with these runs, and the entries of each; None: everything.

        Runs of one kind are taken by whole units, others entry by entry.
        """
        kinds = [self._idx[run.unit or unit] for run in runs if not run.fixed]
        drawn = [idx for idx in kinds if idx is not None]
        if not drawn:
            return None
        if len(set(runs)) == 1:
            count = self.full.of(runs[0].unit or unit)
            blocks = [idx + number * count for number, idx in enumerate(drawn)]
            return torch.cat(blocks, dim=1).unbind(0) if len(blocks) > 1 else blocks[0].unbind(0), runs[0].width
        parts, offset = [], 0
        for run in runs:
            parts.append(self._entries(run, unit, drawn[0]) + offset)
            offset += run.entries(self.full, unit)
        return torch.cat(parts, dim=1).unbind(0), 1

    def _entries(self, run: UnitSpan, unit: Unit, like: Tensor) -> Tensor:
        """(L, entries) of a run that take part, counted from its begin; `like` (L, any) is on their device."""
        taken = None if run.fixed else self._idx[run.unit or unit]
        if taken is None:
            return torch.arange(run.entries(self.full, unit), device=like.device).expand(len(like), -1)
        return (taken.unsqueeze(-1) * run.width + torch.arange(run.width, device=like.device)).flatten(1)


def apply_est(model: nn.Module, spec: ModelSpec) -> EstHandle:
    """Make `model` able to run subnetworks; it starts complete, and behaves then exactly as before.

    Everything is checked before anything is changed: ValueError where the model is not built as `spec` says, or was
    wrapped before. No parameter is added, renamed or copied.
    """
    layers = _checked_layers(model, spec)
    paths = dict.fromkeys([parameter.path for parameter in spec.sampled] + list(spec.branches))
    holders = tuple(_holder(layers, path, spec) for path in paths)
    for layer in layers:
        swap(layer, RoutedLayer)
    handle = EstHandle(spec, layers, holders)
    handle.activate_full()
    return handle


def _holder(layers: tuple[nn.Module, ...], path: str, spec: ModelSpec) -> _Holder:
    parameters = tuple(parameter for parameter in spec.sampled if parameter.path == path)
    names = tuple(parameter.name for parameter in parameters)
    modules = tuple(swap(layer.get_submodule(path), SampledModule, names) for layer in layers)
    return _Holder(modules, parameters, path in spec.branches)


def _owners(layers: tuple[nn.Module, ...], attribute: SampledAttribute) -> tuple[object, ...]:
    """What holds the attribute, for each layer: the module, or its own view of its config."""
    modules = [layer.get_submodule(attribute.path) for layer in layers]
    shared = attribute.name.rpartition(".")[0]
    if not shared:
        return tuple(modules)
    for module in modules:
        if not isinstance(getattr(module, shared), OwnView):
            module.__dict__[shared] = OwnView(getattr(module, shared))
    return tuple(getattr(module, shared) for module in modules)


def _checked_layers(model: nn.Module, spec: ModelSpec) -> tuple[nn.Module, ...]:
    paths = {*spec.branches, *(held.path for held in spec.sampled), *(held.path for held in spec.attributes)}
    try:
        layers = tuple(model.get_submodule(spec.layers).children())
        for layer in layers:
            for path in paths:
                layer.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"model: {type(model).__name__} is not built as the family {spec.family} is: {error}"
        ) from error
    if len(layers) != spec.num_layers:
        raise ValueError(f"model: {spec.layers} holds {len(layers)} layers, the specification says {spec.num_layers}")
    if any(isinstance(layer, RoutedLayer) for layer in layers):
        raise ValueError("model: apply_est was already called on this model")
    for number, layer in enumerate(layers):
        for parameter in spec.sampled:
            _check_shape(layer, parameter, f"{spec.layers}.{number}.{parameter.path}.{parameter.name}")
            parameter.runs(spec.full)
        for attribute in spec.attributes:
            _check_number(layer, attribute, spec)
    return layers


def _check_shape(layer: nn.Module, parameter: SampledParameter, name: str) -> None:
    held = layer.get_submodule(parameter.path)._parameters
    found = held.get(parameter.name)
    if found is None and parameter.name in held:  # a bias that this model does without
        return
    shape = () if found is None else tuple(found.shape)
    if shape != parameter.shape:
        raise ValueError(f"model: {name} has shape {shape}, the specification says {parameter.shape}")


def _check_number(layer: nn.Module, attribute: SampledAttribute, spec: ModelSpec) -> None:
    expected, name = attribute.value(spec.full), f"{attribute.path}.{attribute.name}"
    try:
        found: object = attrgetter(attribute.name)(layer.get_submodule(attribute.path))
    except AttributeError:
        found = "not there"
    if found != expected:
        raise ValueError(f"model: {name} of a {spec.family} layer is {found}, the specification says {expected}")
