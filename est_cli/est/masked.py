"""The method written a second time, slowly: the complete model, masked. What est.check compares draws with.

Nothing is left out of the computation here: every head and column is computed, and what sums over them has weights of 0
for those that were not drawn and N/k times its own for the others. It reads the indices of a Subnetwork and the places
that the specification names, and shares nothing with layers.py and wrap.py. All of it in float64, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from .spec import UNITS, Kept, ModelSpec, SampledParameter
from .subnetwork import Subnetwork

Batch = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""What a model is called with: one tensor, positional arguments, or arguments by name."""

_NOISE = 0.02


def generic_copy(model: nn.Module) -> nn.Module:
    """A copy in float64 that evaluates, with noise on every parameter: one that is 0 or 1 would hide what it does."""
    copy = deepcopy(model).to("cpu", torch.float64).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(_NOISE * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
            parameter.requires_grad_(True)
    return copy


def layers_of(model: nn.Module, spec: ModelSpec) -> list[nn.Module]:
    return [*model.get_submodule(spec.layers).children()]


def entries(parameter: SampledParameter, spec: ModelSpec, subnetwork: Subnetwork, layer: int) -> Tensor:
    """(size,) float64: 1 at the entries along the parameter's dimension that take part in this layer, 0 elsewhere."""
    parts = []
    for run in parameter.runs(spec.full):
        unit = run.unit or parameter.unit
        count = 1 if run.fixed else spec.full.of(unit)
        units, idx = torch.ones(count, dtype=torch.float64), None if run.fixed else subnetwork.units(unit, layer)
        if idx is not None:
            units = torch.zeros_like(units).index_fill(0, idx, 1.0)
        parts.append(units.repeat_interleave(run.width))
    return torch.cat(parts)


def masked_copy(
    model: nn.Module, spec: ModelSpec, subnetwork: Subnetwork, only: int | None = None
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the untouched `model` that computes what the subnetwork computes (`only`: in this layer alone), and by
    parameter the factor with which a gradient in the copy is that of the model."""
    copy, factors = deepcopy(model), {}
    names = {id(parameter): name for name, parameter in copy.named_parameters()}
    running = range(spec.num_layers) if subnetwork.layer_idx is None else subnetwork.layer_idx
    for number, layer in enumerate(layers_of(copy, spec)):
        if only is not None and number != only:
            continue
        if number not in running:
            layer.forward = _skip
            continue
        for parameter in spec.sampled:
            module, kept = layer.get_submodule(parameter.path), entries(parameter, spec, subnetwork, number)
            weight = module._parameters.get(parameter.name)
            if weight is not None and parameter.scaled:
                factor = _along(kept * (len(kept) / kept.sum()) ** subnetwork.unit_power, parameter, weight)
                weight.data.mul_(factor)
                factors[names[id(weight)]] = factor
            elif weight is not None and not kept.all() and weight.dim() == 1:
                _run_on(module, kept.nonzero()[:, 0], _numbers(spec, subnetwork, number, parameter.path))
        scales = subnetwork.layer_scales
        scale = subnetwork.layer_scale if scales is None else float(scales[number])
        for path in spec.branches:
            layer.get_submodule(path).register_forward_hook(multiplied(scale))
    return copy, factors


def _skip(*args: Any, **kwargs: Any) -> Any:
    return first_argument(args, kwargs)


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a layer that is left out gives back."""
    return args[0] if args else kwargs.get("hidden_states")


def multiplied(scale: float) -> Callable[[nn.Module, Any, Any], Any]:
    """A hook that multiplies what a module gives."""
    return lambda module, args, output: output * scale


def _along(factor: Tensor, parameter: SampledParameter, weight: Tensor) -> Tensor:
    shape = [1] * weight.dim()
    shape[parameter.dim] = -1
    return factor.view(shape)


def _numbers(spec: ModelSpec, subnetwork: Subnetwork, layer: int, path: str) -> dict[str, int]:
    """What the attributes of a module of a layer are where the subnetwork runs."""
    drawn = [subnetwork.units(unit, layer) for unit in UNITS]
    kept = Kept(*(n if idx is None else len(idx) for n, idx in zip(spec.full, drawn, strict=True)))
    return {attribute.name: attribute.value(kept) for attribute in spec.attributes if attribute.path == path}


def _run_on(module: nn.Module, kept: Tensor, numbers: dict[str, int]) -> None:
    """Let a module whose parameters lie along its last dimension, as a norm's do, see nothing but the entries `kept`.

    A norm over all heads normalises over those that run. Modules of another form stay as they are.
    """
    forward, held = module.forward, {name: p for name, p in module._parameters.items() if p is not None}

    def on_kept(x: Tensor, *more: Any) -> Tensor:
        if any(weight.shape != x.shape[-1:] for weight in held.values()):
            return cast(Tensor, forward(x, *more))
        before = {name: vars(module)[name] for name in numbers}
        for name, weight in held.items():
            del module._parameters[name]
            setattr(module, name, weight[kept])
        vars(module).update(numbers)
        try:
            seen = [y[..., kept] if isinstance(y, Tensor) and y.shape == x.shape else y for y in (x, *more)]
            return torch.zeros_like(x).index_copy(-1, kept, forward(*seen))
        finally:
            vars(module).update(before)
            for name, weight in held.items():
                delattr(module, name)
                module._parameters[name] = weight

    if not [*module.children()] and "forward" not in vars(module):  # its weight and its bias are two parameters
        module.forward = on_kept


def called_with(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a batch, on the CPU and its numbers in float64."""
    if isinstance(batch, Mapping):
        return (), {name: _ready(value) for name, value in batch.items()}
    return tuple(map(_ready, batch if isinstance(batch, tuple | list) else (batch,))), {}


def _ready(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to("cpu", torch.float64) if value.is_floating_point() else value.cpu()


def output_of(model: nn.Module, batch: Batch) -> Tensor:
    """The logits, or whatever tensor a model gives first. ValueError where it gives none."""
    args, kwargs = called_with(batch)
    result = model(*args, **kwargs)
    result = getattr(result, "logits", result)
    result = next((x for x in result if isinstance(x, Tensor)), None) if isinstance(result, tuple | list) else result
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise ValueError(f"model: gives {type(result).__name__}; a tensor, a tuple with one or .logits is compared")
    return result


def gradients_of(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    """Gradients of one number that every entry of the output goes into with a weight of its own; unused: zeros."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    named = dict(model.named_parameters())
    found = torch.autograd.grad((output * weights).sum(), [*named.values()], allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def largest(tensor: Tensor) -> float:
    """The largest magnitude in it; of none 0."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0
