"""est.check: whether a specification says of a model what the model does, found out by running it.

Four questions, each asked only when those before it are answered: do layers give back what they take, so that one can
be left out; are the entries of heads and columns where the specification has them (footprint.py); does everything that
joins the residual stream pass a branch; and does a drawn subnetwork compute what the masked complete model does
(masked.py), in its output and in all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .footprint import check_units
from .index import IndexGenerator
from .layers import RoutedLayer
from .located import located
from .masked import (
    Batch,
    first_argument,
    generic_copy,
    gradients_of,
    largest,
    layers_of,
    masked_copy,
    multiplied,
    output_of,
)
from .schedule import SamplingRates
from .sizes import SamplingOptions
from .spec import ModelSpec
from .subnetwork import FULL, Subnetwork
from .wrap import apply_est

TOLERANCE = 1e-6
"""Relative to the largest number. A fault is far above it; below are roundings of what models compute in fp32."""


def check(model: nn.Module, spec: ModelSpec, batch: Batch) -> float:
    """Compare `model` (complete, before apply_est) with what `spec` says of it; the model itself stays untouched.

    `batch` is what the model is called with: a tensor, a tuple of arguments or a dict of them by name; a few short
    sequences do. Copies of the model run in float64 on the CPU, with noise on the parameters: take a small model of the
    kind. Gives the largest difference found, relative to the largest number (1e-12 or so where all is well).

    Raises ValueError in one line: what is wrong, in which module, and what would be right.
    """
    if any(isinstance(module, RoutedLayer) for module in model.modules()):
        raise ValueError("model: apply_est was already called on this model; check it before")
    apply_est(deepcopy(model), spec)  # raises where modules, shapes or numbers are not those of the specification
    plain = generic_copy(model)
    draws = _draws(spec)
    _check_layers(plain, spec, batch)
    _check_head_dim(spec)
    check_units(plain, spec, batch, draws)
    _check_branches(plain, spec, batch)
    return max(_difference(plain, spec, batch, what, draw) for what, draw in draws.items())


def _draws(spec: ModelSpec) -> dict[str, Subnetwork]:
    """The complete model and a draw of each kind, by what is sampled in it."""
    found = {"everything running": FULL}
    half = {"columns": SamplingRates(p_m=0.5), "heads": SamplingRates(p_h=0.5)}
    can = {"columns": spec.mlp_size > 1, "heads": spec.num_heads > 1}
    for what in (name for name, can_be in can.items() if can_be):
        for kv_groups in _kv_groups(spec) if what == "heads" else ("whole",):
            options = SamplingOptions(kv_groups=kv_groups, multiple_of=1)
            name = what if spec.group_size == 1 or what == "columns" else f"{what} ({kv_groups} KV groups)"
            found[name] = IndexGenerator(spec, 0, options).draw(0, half[what])
    if spec.num_layers > 1 and any(can.values()):  # numbers that modules of several layers share would show here
        options = SamplingOptions(kv_groups=next(_kv_groups(spec)), multiple_of=1, protect=("last",))
        rates = SamplingRates(0.5 if can["heads"] else 1.0, 0.5 if can["columns"] else 1.0)
        found["heads and columns of all layers but the last"] = IndexGenerator(spec, 0, options).draw(0, rates)
    if spec.num_layers > 1:
        options = SamplingOptions(layer_scale="inverse")
        found["layers"] = IndexGenerator(spec, 0, options).draw(0, SamplingRates(p_l=0.5))
    return found


def _kv_groups(spec: ModelSpec) -> Iterator[str]:
    if spec.num_kv_heads > 1:
        yield "whole"
    if spec.splits_groups or spec.num_kv_heads == 1:  # of one group nothing else can be sampled: refused where it
        yield "within"  # cannot be either


def _check_layers(plain: nn.Module, spec: ModelSpec, batch: Batch) -> None:
    """A layer that is left out gives back its first argument: hidden states, as it gives them itself."""
    model, seen = deepcopy(plain), []

    def see(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((first_argument(args, kwargs), output))

    for layer in layers_of(model, spec):
        layer.register_forward_hook(see, with_kwargs=True)
    output_of(model, batch)
    if len(seen) != spec.num_layers:
        raise ValueError(f"spec: layers={spec.layers!r}: {len(seen)} of its {spec.num_layers} layers ran in a forward")
    for x, y in seen:
        if not isinstance(y, Tensor):
            kind = type(y).__name__
            raise ValueError(f"model: a layer of {spec.layers} gives a {kind}; it must give the hidden states alone")
        if not isinstance(x, Tensor) or x.shape != y.shape:
            raise ValueError(
                f"model: the first argument of a layer of {spec.layers} must be hidden states, as what it gives is: "
                "a layer that is left out gives that argument back"
            )
        if y.shape[-1] != spec.hidden_size:
            raise ValueError(f"spec: hidden_size={spec.hidden_size}, and a layer gives states of {y.shape[-1]} numbers")


def _check_head_dim(spec: ModelSpec) -> None:
    """FLOPs of attention are counted with it, and nothing else would tell that it is wrong."""
    for held in spec.projections if spec.attention else ():
        if held.side == "in" and held.unit == "head" and not held.layout:
            width = held.in_features // spec.num_heads
            if width != spec.head_dim:
                raise ValueError(f"spec: head_dim={spec.head_dim}, and {held.path} sums over heads of {width} each")


def _check_branches(plain: nn.Module, spec: ModelSpec, batch: Batch) -> None:
    """With every branch of the first layer at 0, nothing of what is sampled there may reach its output, and what came
    before it must."""
    model = deepcopy(plain)
    layer, seen = layers_of(model, spec)[0], []

    def give_leaf(layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Hidden states that gradients reach, also where they are the batch itself."""
        x = first_argument(args, kwargs).detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def see(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((first_argument(args, kwargs), output))

    layer.register_forward_pre_hook(give_leaf, with_kwargs=True)
    layer.register_forward_hook(see, with_kwargs=True)
    for path in spec.branches:
        layer.get_submodule(path).register_forward_hook(multiplied(0.0))
    output_of(model, batch)
    x, y = seen[0]
    held = [(p.path, layer.get_submodule(p.path)._parameters.get(p.name)) for p in spec.sampled if p.scaled]
    summed = [(path, weight) for path, weight in held if weight is not None]
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    through, *reached = torch.autograd.grad((y * weights).sum(), [x, *(w for _, w in summed)], allow_unused=True)
    listed = ", ".join(spec.branches) or "none"
    for (path, _), gradient in zip(summed, reached, strict=True):
        if gradient is not None and bool(gradient.any()):
            raise ValueError(
                f"spec: {path} joins the residual stream and no branch holds it (branches: {listed}), so it has no "
                f'scale under layer_scale="inverse", pld and early_dropout; add "{path}" to branches, or a norm behind'
                " it"
            )
    if through is None or not bool(through.any()):
        raise ValueError(
            f"spec: a branch holds the residual stream itself (branches: {listed}); name what is added to it"
        )
    for path in spec.branches:
        if inner := [other for other in spec.branches if other != path and other.startswith(f"{path}.")]:
            raise ValueError(f"spec: the branch {inner[0]} is a part of the branch {path} and would be scaled twice")


def _difference(plain: nn.Module, spec: ModelSpec, batch: Batch, what: str, draw: Subnetwork) -> float:
    """The largest one between a draw and the masked complete model. ValueError that says where it begins, if any."""
    masked, factors = masked_copy(plain, spec, draw)
    sampled = deepcopy(plain)
    handle = apply_est(sampled, spec)
    handle.activate(draw)
    expected = output_of(masked, batch)
    try:
        output = output_of(sampled, batch)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ValueError(located(masked, sampled, spec, batch, what, draw, error)) from error
    if output.shape != expected.shape or not _same(output, expected) <= TOLERANCE:
        raise ValueError(located(masked, sampled, spec, batch, what, draw))
    found, wanted = gradients_of(sampled, output), gradients_of(masked, expected)
    off = {name: _same(found[name], wanted[name] * factors.get(name, 1.0), wanted.values()) for name in found}
    worst = max(off, key=lambda name: off[name])
    if not off[worst] <= TOLERANCE:
        raise ValueError(f"spec: with {what} sampled the gradient of {worst} is not that of the masked complete model")
    return max(_same(output, expected), off[worst])


def _same(found: Tensor, expected: Tensor, among: Any = ()) -> float:
    """The largest difference, relative to the largest number of `expected` or of `among`."""
    return largest(found - expected) / max([1e-30, largest(expected), *map(largest, among)])
