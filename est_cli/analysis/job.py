"""What all analyses are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from transformers import PreTrainedModel

from est_cli.analysis.curvature import Loss, mean_loss
from est_cli.analysis.text import Text, loss_on
from est_cli.analysis.work import Work
from est_cli.common.errors import NumericsError
from est_cli.config import AnalyzeConfig
from est_cli.distributed import weight_checksum
from est_cli.distributed.workers import Processes
from est_cli.models.pretrained import Checkpoint, load_language_model
from est_cli.tracking.work_progress import Progress

Outcome = tuple[dict[str, Any], dict[str, Figure]]
"""What stands under `result` in analysis.json, and the pictures by name."""


@dataclass(frozen=True)
class Asked:
    """A checkpoint and, where it is one of a run's, the step it was saved after."""

    checkpoint: Checkpoint
    step: int | None = None


@dataclass(frozen=True)
class Job:
    config: AnalyzeConfig
    asked: tuple[Asked, ...]
    baseline: Checkpoint | None
    text: Text
    processes: Processes
    shown: Progress

    @property
    def batches(self) -> int:
        return len(self.text.batches)

    @property
    def work(self) -> Work:
        return Work(self.processes.group, self.shown.advance)

    def load(self, checkpoint: Checkpoint) -> PreTrainedModel:
        """The model on the device, without dropout; attention is written out in plain operators, because fused ones
        have no second derivative. Raises PeerLostError where another process has other weights."""
        self.shown.begin(f"{checkpoint.name}: {self.config.analysis.value}")
        model = load_language_model(checkpoint, attention="eager").to(self.processes.device).eval()
        if self.processes.group.rank.world_size > 1:
            self.processes.group.require_same(weight_checksum(model), "its weights are not")
        return model

    def loss(self, model: PreTrainedModel, checkpoint: Checkpoint) -> tuple[Loss, float]:
        """The loss to differentiate, and its value. Raises NumericsError where that is not finite."""
        loss = loss_on(model, self.text)
        value = mean_loss(loss, self.batches)
        if not math.isfinite(value):
            raise NumericsError(f"{checkpoint.place}: its loss on this text is {value}")
        return loss, value
