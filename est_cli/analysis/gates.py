"""A subnetwork as factors on the complete model, by which the loss can be differentiated.

A head or column that is drawn has the factor N/k on what the projection out of the module reads of it, another one 0; a
layer that is not drawn has 0 on its residual branches. With m the vector of all these factors and delta = m - 1,

    L(m) = L(1) + g . delta + 1/2 delta^T H delta + ...

where g and H are the gradient and the Hessian of the loss by the factors, at the complete model. The mean of the second
term over draws is 1/2 sum_uv Cov(m_u, m_v) H_uv, what the noise of the masks costs to second order; the first has mean
zero for heads and columns, whose factors are 1 on average, and not for layers, which no 1/p makes up for.

L layers, k units kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from est_cli.est import ModelSpec, Subnetwork
from est_cli.est.spec import Projection, Unit


class Gates:
    """The factors, one tensor of (L, units) for each kind, and the hooks that apply them."""

    def __init__(self, spec: ModelSpec, like: Tensor) -> None:
        self.spec = spec
        sizes = {"head": spec.num_heads, "column": spec.mlp_size, "layer": 1}
        kinds = {kind: torch.ones(spec.num_layers, size, device=like.device) for kind, size in sizes.items() if size}
        self.factors = {kind: ones.to(like.dtype).requires_grad_() for kind, ones in kinds.items()}

    @property
    def inputs(self) -> list[Tensor]:
        """What to differentiate by."""
        return list(self.factors.values())

    def delta(self, subnetwork: Subnetwork) -> list[Tensor]:
        """m - 1 of a subnetwork, in the order of `inputs`."""
        drawn = {kind: self._units(kind, subnetwork) for kind in self.factors if kind != "layer"}
        return [(drawn | {"layer": self._layers(subnetwork)})[kind] - 1.0 for kind in self.factors]

    def _units(self, kind: str, subnetwork: Subnetwork) -> Tensor:
        factors = torch.ones_like(self.factors[kind], requires_grad=False)
        for layer, row in enumerate(factors):
            if (idx := subnetwork.units(cast(Unit, kind), layer)) is not None:
                row.zero_()[idx.to(row.device)] = (len(row) / len(idx)) ** subnetwork.unit_power
        return factors

    def _layers(self, subnetwork: Subnetwork) -> Tensor:
        running = range(self.spec.num_layers) if subnetwork.layer_idx is None else subnetwork.layer_idx
        factors = torch.zeros_like(self.factors["layer"], requires_grad=False)
        scales = subnetwork.layer_scales
        for layer in running:
            factors[layer] = subnetwork.layer_scale if scales is None else scales[layer]
        return factors

    @contextmanager
    def absent(self, units: Iterable[tuple[str, int, int]]) -> Iterator[None]:
        """Until the end of the block these units, (kind, layer, number) each, are left out: see draws.py."""
        before = {kind: factors.detach().clone() for kind, factors in self.factors.items()}
        with torch.no_grad():
            for kind, layer, number in units:
                self.factors[kind][layer, number] = 0.0
            for factors in self.factors.values():
                left = (factors != 0.0).sum(1, keepdim=True).clamp(min=1)
                factors *= factors.shape[1] / left
        try:
            yield
        finally:
            with torch.no_grad():
                for kind, factors in self.factors.items():
                    factors.copy_(before[kind])

    @contextmanager
    def applied(self, layers: tuple[nn.Module, ...]) -> Iterator[None]:
        """Have the factors take part in every forward pass of these layers until the end of the block."""
        handles = []
        for number, layer in enumerate(layers):
            for projection in outputs_of(self.spec):
                hook = self._on_input(projection, number)
                handles.append(layer.get_submodule(projection.path).register_forward_pre_hook(hook))
            for path in self.spec.branches:
                handles.append(layer.get_submodule(path).register_forward_hook(self._on_output(number)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_input(self, projection: Projection, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            factors = self.factors[projection.unit][number]
            return args[0] * factors.repeat_interleave(projection.in_features // len(factors)), *args[1:]

        return hook

    def _on_output(self, number: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output * self.factors["layer"][number]

        return hook


def outputs_of(spec: ModelSpec) -> list[Projection]:
    """The projections that sum over heads or columns."""
    return [projection for projection in spec.projections if projection.side == "in"]


def expressible(spec: ModelSpec) -> bool:
    """Whether factors say all that a subnetwork does.

    Not so where units have a say in each other: in a norm over all heads (OLMo2), or in what a state-space model makes
    of all channels together.
    """
    return spec.attention and not spec.parameters and not any(projection.layout for projection in outputs_of(spec))
