"""What changes the weights: AdamW, or torch's Muon for the matrices beside it, and the learning rate."""

from est_cli.training.optim.loss_scale import PATIENCE, LossScale
from est_cli.training.optim.optimizer import Optimizer, build_optimizer, missing_moments
from est_cli.training.optim.schedule import common_lr_steps, lr_at
from est_cli.training.optim.update import update

__all__ = [
    "PATIENCE",
    "LossScale",
    "Optimizer",
    "build_optimizer",
    "common_lr_steps",
    "lr_at",
    "missing_moments",
    "update",
]
