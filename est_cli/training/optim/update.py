"""The end of a step: clip, decide whether the gradients are to be trusted, change the weights, without waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from est_cli.est import GradientPart
from est_cli.training.optim.adamw import step_adamw
from est_cli.training.optim.loss_scale import LossScale
from est_cli.training.optim.muon import step_muon
from est_cli.training.optim.optimizer import Optimizer


class Watch(Protocol):
    """Who measures a step while it is taken (training/health.py)."""

    def see_gradients(self, scale: Tensor | None) -> None:
        """They are complete, times `scale` and not clipped."""

    def see_updates(self, take: Callable[[Sequence[GradientPart]], None], parts: Sequence[GradientPart]) -> None:
        """Have the step taken: `take` changes the weights that have a gradient, of those of its parts these entries."""


def update(
    optimizer: Optimizer,
    lr: float,
    max_norm: float,
    loss: Tensor,
    parts: Sequence[GradientPart] = (),
    scale: LossScale | None = None,
    watch: Watch | None = None,
    limits: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Clip to the gradient norm `max_norm` (0: never) and take a step at rate `lr`; then drop the gradients.

    Of the parameters of `parts` AdamW changes only these entries, weights and moments. `scale`: what the loss had been
    multiplied by for the backward pass; `loss` itself is as it is. `watch` sees it all, and changes no bit of it.
    `limits`: of loss and gradient norm.

    Returns (gradient norm before clipping, 1.0 if loss or norm is not finite, or if they are above both `limits`), both
    on the device and not waited for. In the second case weights, moments and step counts stay as they are: the
    optimizer's kernel decides that, and it also scales the gradients while it reads them.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if isinstance(norm, DTensor):  # of shards: each process knows only its own share of the sum
        norm = norm.full_tensor()
    if scale is not None:
        norm = norm / scale.factor
    rejected = (~torch.isfinite(norm + loss)).to(torch.float32)
    if watch is not None:
        watch.see_gradients(None if scale is None else scale.factor)
    divisor = (norm / max_norm).clamp(min=1.0).to(torch.float32) if max_norm else None
    if scale is not None:
        divisor = scale.factor.clone() if divisor is None else divisor * scale.factor
        scale.update(rejected)
    if limits is not None:  # after the loss scale, which a spike says nothing about
        rejected = torch.maximum(rejected, ((loss > limits[0]) & (norm > limits[1])).to(torch.float32))
    if optimizer.zero_grad_skipped:
        _zero_missing([parameter for parameter in parameters if parameter.grad is None])

    def take(those: Sequence[GradientPart]) -> None:
        step_adamw(optimizer.adamw, divisor, rejected, those)
        if optimizer.muon is not None:
            step_muon(optimizer.muon, divisor, rejected)

    if watch is None:
        take(parts)
    else:
        watch.see_updates(take, parts)
    optimizer.zero_grad()
    return norm, rejected


def _zero_missing(parameters: Sequence[nn.Parameter]) -> None:
    """Give a gradient of zeros to `parameters`: the same zeros to all that are not spread over processes."""
    if not parameters:
        return
    zeros = parameters[0].new_zeros(max(parameter.numel() for parameter in parameters))
    for parameter in parameters:
        spread = isinstance(parameter, DTensor)
        parameter.grad = torch.zeros_like(parameter) if spread else zeros[: parameter.numel()].view_as(parameter)
