"""The loss scale of fp16: small gradients are no number in 16 bits of that kind, so the loss is multiplied before the
backward pass and the gradients are divided after it (Micikevicius et al., 2018, Mixed precision training)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

INITIAL = 2.0**16
GROWTH_INTERVAL = 2000
"""Steps in a row with finite gradients after which the scale is doubled; as torch.amp.GradScaler has it."""
PATIENCE = int(math.log2(INITIAL))
"""Steps in a row that only search for the scale at which gradients are finite: from the first one down to 1."""


@dataclass(frozen=True)
class LossScale:
    """On the device, where it follows the gradients without being waited for."""

    factor: Tensor
    """() fp32: what the loss is multiplied by."""
    good_steps: Tensor
    """() int32: since the last change."""

    @classmethod
    def at(cls, factor: float, good_steps: int, device: torch.device) -> LossScale:
        """As a checkpoint has it; a factor of 0 stands for the first one."""
        return cls(
            torch.tensor(factor or INITIAL, dtype=torch.float32, device=device),
            torch.tensor(good_steps, dtype=torch.int32, device=device),
        )

    def update(self, rejected: Tensor) -> None:
        """After a step: halved where it was rejected (1.0), doubled after GROWTH_INTERVAL steps that were not."""
        torch._amp_update_scale_(self.factor, self.good_steps, rejected, 2.0, 0.5, GROWTH_INTERVAL)
