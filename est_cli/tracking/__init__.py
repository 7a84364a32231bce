"""What a run tells about itself: metrics.jsonl is the record, W&B its mirror, progress and summary are for people."""

from __future__ import annotations

from est_cli.tracking.metrics import MetricsFile, Record, read_metrics
from est_cli.tracking.wandb_sink import WandbSink, new_run_id

__all__ = ["MetricsFile", "Record", "Tracker", "WandbSink", "new_run_id", "read_metrics"]


class Tracker:
    """Writes each record to the file first and to W&B second; the keys are those of the README.

    Rank 0 tells; the tracker of any other rank has neither file nor W&B.
    """

    def __init__(self, metrics: MetricsFile | None, wandb: WandbSink | None) -> None:
        self.metrics = metrics
        self.wandb = wandb

    def train(self, record: Record) -> None:
        """One optimizer step: loss, rates, FLOPs, speed."""
        self._write(record)

    def validation(self, record: Record) -> None:
        """One evaluation of the complete model: `step`, `tokens`, `val_loss`, `perplexity`."""
        self._write(record)

    def transition(self, record: Record) -> None:
        """A change of stage: `step`, `from_stage`, `to_stage`, `loss_before`, `loss_after`."""
        self.event("stage_transition", record)

    def event(self, name: str, record: Record) -> None:
        """Anything else that happened at `record["step"]`."""
        self._write({"event": name} | record)

    def close(self, summary: Record | None) -> None:
        """End the record. `summary` is that of a finished run, None where the run stopped before its end."""
        if self.metrics is not None:
            self.metrics.close()
        if self.wandb is not None:
            self.wandb.finish(summary)

    def sync(self) -> None:
        """Have the disk hold every record so far. Raises StorageError."""
        if self.metrics is not None:
            self.metrics.sync()

    def _write(self, record: Record) -> None:
        if self.metrics is not None:
            self.metrics.append(record)
        if self.wandb is not None:
            self.wandb.log(record)
