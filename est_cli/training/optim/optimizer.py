"""The optimizers of a run, as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from est_cli.config import OptimConfig, OptimName, SkippedLayers
from est_cli.est import EstHandle
from est_cli.training.optim.adamw import build_adamw
from est_cli.training.optim.muon import build_muon, matrices_of


@dataclass(frozen=True)
class Optimizer:
    """What is asked of a torch optimizer where it is saved or counted; a step of it is taken by update()."""

    adamw: torch.optim.AdamW
    muon: torch.optim.Muon | None
    """For the matrices of the layers; None: AdamW has them too."""
    zero_grad_skipped: bool
    """Whether a parameter without a gradient is treated as one whose gradient is zero."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.adamw.param_groups + ([] if self.muon is None else self.muon.param_groups)

    @property
    def state(self) -> dict[Tensor, Any]:
        """One for both."""
        return self.adamw.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        for optimizer in (self.adamw, self.muon):
            if optimizer is not None:
                optimizer.zero_grad(set_to_none)


def build_optimizer(model: nn.Module, optim: OptimConfig, handle: EstHandle | None = None) -> Optimizer:
    """What `optim` says, for all parameters of `model` that learn. `handle`: of its layers; muon needs it."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    zero_grad_skipped = optim.skipped_layers is SkippedLayers.zero_grad
    if optim.name is OptimName.adamw:
        return Optimizer(build_adamw(named, optim), None, zero_grad_skipped)
    assert handle is not None, "muon must know which of the matrices are the layers'"
    matrices = matrices_of(handle.layers, handle.spec)
    adamw = build_adamw([(name, parameter) for name, parameter in named if parameter not in matrices], optim)
    muon = build_muon(matrices, optim)
    muon.state = adamw.state
    return Optimizer(adamw, muon, zero_grad_skipped)


def missing_moments(optimizer: Optimizer) -> int:
    """Bytes of the moments of parameters that have none yet: two of AdamW's or one of Muon's each."""
    return sum(
        (2 if "betas" in group else 1) * parameter.nbytes
        for group in optimizer.param_groups
        for parameter in group["params"]
        if not optimizer.state.get(parameter)
    )
