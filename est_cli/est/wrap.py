"""apply_est: give an existing model the two states that EST knows, a subnetwork or the full model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .index import FULL, Subnetwork
from .layers import RoutedLayer, SampledProjection, swap
from .spec import ModelSpec, Projection


class EstHandle:
    """Switches the wrapped model between subnetworks. A subnetwork must stay active until its backward is done."""

    def __init__(self, spec: ModelSpec, layers: tuple[nn.Module, ...]) -> None:
        self.spec = spec
        self.layers = layers
        self._modules = {p: tuple(_projection(layer, p) for layer in layers) for p in spec.projections}
        self._active: Subnetwork | None = None

    def activate(self, subnetwork: Subnetwork) -> None:
        """Run only `subnetwork` from now on; nothing is touched if it is active already, as FULL is all along at p = 1.

        Indices are sent to the model's device in one copy, without waiting for it. Raises ValueError where the
        subnetwork was drawn for a model with another number of layers.
        """
        if subnetwork is self._active:
            return
        self._check(subnetwork)
        spec, on_device = self.spec, subnetwork.to(next(self.layers[0].parameters()).device)
        heads = spec.num_heads if subnetwork.head_idx is None else subnetwork.head_idx.shape[1]
        kv_heads = spec.num_kv_heads if subnetwork.kv_idx is None else subnetwork.kv_idx.shape[1]
        columns = spec.mlp_size if subnetwork.mlp_idx is None else subnetwork.mlp_idx.shape[1]
        scales = {"head": spec.num_heads / heads, "kv_head": 1.0, "column": spec.mlp_size / columns}
        running = range(len(self.layers)) if subnetwork.layer_idx is None else subnetwork.layer_idx
        for projection, modules in self._modules.items():
            units = self._units(projection, on_device)
            layer_scale = subnetwork.layer_scale if projection.side == "in" else 1.0
            for number in running:  # a module's own __setattr__ costs more than the rest of this
                modules[number].__dict__.update(
                    est_units=units[number], est_scale=scales[projection.unit], est_layer_scale=layer_scale
                )
        self._set_attributes(heads, kv_heads)
        self._route(subnetwork.layer_idx)
        self._active = subnetwork

    def activate_full(self) -> None:
        """Run the complete model, for evaluation, saving and the last stage."""
        self.activate(FULL)

    def _check(self, subnetwork: Subnetwork) -> None:
        rows = {len(idx) for idx in (subnetwork.head_idx, subnetwork.kv_idx, subnetwork.mlp_idx) if idx is not None}
        if rows - {len(self.layers)} or max(subnetwork.layer_idx or (0,)) >= len(self.layers):
            raise ValueError(f"subnetwork: was not drawn for a model of {len(self.layers)} layers")

    def _units(self, projection: Projection, subnetwork: Subnetwork) -> Sequence[Tensor | None]:
        """For each layer the (blocks * k,) units on the projection's sampled side; None: all."""
        idx = {"head": subnetwork.head_idx, "kv_head": subnetwork.kv_idx, "column": subnetwork.mlp_idx}[projection.unit]
        if idx is None:
            return [None] * len(self.layers)
        if projection.blocks > 1:
            count = self.spec.unit_count(projection.unit)
            idx = torch.cat([idx + block * count for block in range(projection.blocks)], dim=1)
        return idx.unbind(0)

    def _set_attributes(self, heads: int, kv_heads: int) -> None:
        for attribute in self.spec.attributes:
            for layer in self.layers:
                setattr(layer.get_submodule(attribute.path), attribute.name, attribute.value(heads, kv_heads))

    def _route(self, layer_idx: tuple[int, ...] | None) -> None:
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, RoutedLayer)
            layer.est_active = layer_idx is None or number in layer_idx


def apply_est(model: nn.Module, spec: ModelSpec) -> EstHandle:
    """Make `model` able to run subnetworks; it starts complete, and behaves then exactly as before.

    Everything is checked before anything is changed: ValueError where the model is not built as `spec` says, or was
    wrapped before. No parameter is added, renamed or copied.
    """
    layers = _checked_layers(model, spec)
    for layer in layers:
        for projection in spec.projections:
            module = swap(layer.get_submodule(projection.path), SampledProjection)
            module.est_projection = projection
            module.est_unit_size = _unit_size(spec, projection)
        swap(layer, RoutedLayer)
    handle = EstHandle(spec, layers)
    handle.activate_full()
    return handle


def _checked_layers(model: nn.Module, spec: ModelSpec) -> tuple[nn.Module, ...]:
    try:
        layers = tuple(model.get_submodule(spec.layers).children())
        modules = {(n, p.path): layer.get_submodule(p.path) for n, layer in enumerate(layers) for p in spec.projections}
    except AttributeError as error:
        raise ValueError(
            f"model: {type(model).__name__} is not built as the family {spec.family} is: {error}"
        ) from error
    if len(layers) != spec.num_layers:
        raise ValueError(f"model: {spec.layers} holds {len(layers)} layers, the specification says {spec.num_layers}")
    if any(isinstance(layer, RoutedLayer) for layer in layers):
        raise ValueError("model: apply_est was already called on this model")
    for projection in spec.projections:
        for number in range(len(layers)):
            _check_shape(modules[number, projection.path], projection, f"{spec.layers}.{number}.{projection.path}")
    return layers


def _check_shape(module: nn.Module, projection: Projection, name: str) -> None:
    shape = (projection.out_features, projection.in_features)
    expected = shape[::-1] if projection.transposed else shape
    found = tuple(getattr(module, "weight", torch.empty(0)).shape)
    if found != expected:
        raise ValueError(f"model: {name}.weight has shape {found}, the specification says {expected}")


def _unit_size(spec: ModelSpec, projection: Projection) -> int:
    features = projection.out_features if projection.side == "out" else projection.in_features
    units = projection.blocks * spec.unit_count(projection.unit)
    assert features % units == 0, f"{projection.path}: {features} features are not {units} equal units"
    return features // units


def _projection(layer: nn.Module, projection: Projection) -> SampledProjection:
    module = layer.get_submodule(projection.path)
    assert isinstance(module, SampledProjection)
    return module
