"""Learning rate and optimizer. The learning rate is a pure function of the step: there is nothing to save."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from est_cli.config import DEFAULT_DECAY, DEFAULT_MIN_LR_RATIO, LrSchedule, OptimConfig
from est_cli.est.schedule import boundary_step


def lr_at(step: int, max_steps: int, optim: OptimConfig) -> float:
    """Learning rate of step `step` (0-based): linear warm-up, then the schedule down to its floor.

    - wsd (warm-up, stable, decay): constant, then linear over the last `decay` steps
    - cosine, linear: down to the floor over all steps after the warm-up
    - constant: no descent
    """
    warmup = boundary_step(optim.warmup, max_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    floor = DEFAULT_MIN_LR_RATIO if optim.min_lr_ratio is None else optim.min_lr_ratio
    begin = warmup
    if optim.schedule is LrSchedule.constant:
        return optim.lr
    if optim.schedule is LrSchedule.wsd:
        begin = max_steps - boundary_step(DEFAULT_DECAY if optim.decay is None else optim.decay, max_steps)
    progress = min(1.0, max(0.0, (step + 1 - begin) / max(1, max_steps - begin)))
    shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule is LrSchedule.cosine else 1.0 - progress
    return optim.lr * (floor + (1.0 - floor) * shape)


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW, fused; matrices and embeddings decay, biases and norms do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True)


def update(optimizer: torch.optim.Optimizer, lr: float, max_norm: float, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Clip to the gradient norm `max_norm` (0: never) and take a step at rate `lr`; then drop the gradients.

    Returns (gradient norm before clipping, 1.0 if loss or norm is not finite), both on the device and not waited for.
    In the second case weights, moments and step counts stay as they are: the optimizer's kernel decides that, and it
    also scales the gradients while it reads them.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):  # of shards: each process knows only its own share of the sum
        norm = norm.full_tensor()
    rejected = (~torch.isfinite(norm + loss)).to(torch.float32)
    divisor = (norm / max_norm).clamp(min=1.0).to(torch.float32) if max_norm else None
    optimizer.grad_scale, optimizer.found_inf = divisor, rejected  # type: ignore[attr-defined]  # as torch.amp does it
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, rejected
