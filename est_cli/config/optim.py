"""Optimizer and learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Union


class LrSchedule(StrEnum):
    wsd = "wsd"
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class SkippedLayers(StrEnum):
    frozen = "frozen"


class UnsampledRows(StrEnum):
    zero_grad = "zero_grad"


DEFAULT_DECAY = 0.2
"""What `optim.decay: null` means: the last fifth of the run."""
DEFAULT_MIN_LR_RATIO = 0.1
"""What `optim.min_lr_ratio: null` means."""


@dataclass
class OptimConfig:
    name: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Applied to matrices and embeddings, not to biases and norms."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0: no clipping."""
    schedule: LrSchedule = LrSchedule.wsd
    warmup: Union[int, float] = 0.02  # noqa: UP007
    """Steps (int) or fraction of the run (float) of linear warm-up."""
    decay: Union[int, float, None] = None  # noqa: UP007
    """wsd only: steps (int) or fraction (float) of the final linear decay; None: 0.2."""
    min_lr_ratio: float | None = None
    """The floor of wsd, cosine and linear as a fraction of lr; None: 0.1."""
    skipped_layers: SkippedLayers = SkippedLayers.frozen
    unsampled_rows: UnsampledRows = UnsampledRows.zero_grad
