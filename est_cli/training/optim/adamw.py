"""torch's fused AdamW on whole parameters, and the same kernel on those entries alone that a step has reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from est_cli.config import OptimConfig
from est_cli.est import GradientPart

CPU_PIECE = 1 << 15
"""Entries that are copied out, updated and put back at a time on a CPU: as many as stay in its cache."""


def build_adamw(named: Sequence[tuple[str, nn.Parameter]], optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW, fused; matrices and embeddings decay, biases, norms and Mamba's A (logarithms of rates) do not."""
    groups = [
        {"params": [p for name, p in named if _decays(name, p)], "weight_decay": optim.weight_decay},
        {"params": [p for name, p in named if not _decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and not name.endswith("A_log")


def step_adamw(
    adamw: torch.optim.AdamW, divisor: Tensor | None, rejected: Tensor, parts: Sequence[GradientPart] = ()
) -> None:
    """A step with gradients over `divisor`, or none where `rejected` is 1.0; both stay on the device.

    Of the parameters of `parts` only these entries change, weights and moments. The step count, which the correction of
    the moments' bias depends on, is one number for the whole parameter.
    """
    some = {part.parameter: part for part in parts if part.units is not None}
    gradients = {parameter: parameter.grad for parameter in some}
    for parameter in some:
        parameter.grad = None
    adamw.grad_scale, adamw.found_inf = divisor, rejected  # type: ignore[attr-defined]  # as torch.amp does it
    adamw.step()
    for group in adamw.param_groups:
        for parameter in filter(some.__contains__, group["params"]):
            gradient = gradients[parameter]
            assert gradient is not None, "a parameter of a layer that ran has no gradient"
            _step_part(some[parameter], gradient, _state_of(adamw, parameter), group, divisor, rejected)


def _state_of(adamw: torch.optim.AdamW, parameter: nn.Parameter) -> dict[str, Tensor]:
    """As torch makes it in a parameter's first step."""
    state: dict[str, Tensor] = adamw.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state


@torch.no_grad()
def _step_part(
    part: GradientPart,
    gradient: Tensor,
    state: dict[str, Tensor],
    group: dict[str, Any],
    divisor: Tensor | None,
    rejected: Tensor,
) -> None:
    (beta1, beta2), step = group["betas"], state["step"]
    step += 1
    whole = (part.parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
    for piece, views in part.pieces(whole, CPU_PIECE if gradient.device.type == "cpu" else part.numel):
        weight, grad, exp_avg, exp_avg_sq = taken = [piece.of(view) for view in views]
        torch._fused_adamw_(
            [weight], [grad], [exp_avg], [exp_avg_sq], [], [step], lr=group["lr"], beta1=beta1, beta2=beta2,
            weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False, grad_scale=divisor,
            found_inf=rejected,
        )  # fmt: skip
        for number in (0, 2, 3):
            piece.put(views[number], taken[number])
    step -= rejected  # torch's own AdamW counts a rejected step in the same way
