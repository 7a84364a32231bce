"""What a run tells about itself: metrics.jsonl is the record, W&B its mirror, progress and summary are for people."""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.tracking.also import Followed, followers
from est_cli.tracking.follow import Follower
from est_cli.tracking.lost import count_records, kind_of, lost_records, repeated_records
from est_cli.tracking.metrics import MetricsFile, read_metrics
from est_cli.tracking.records import In, Record, record_of
from est_cli.tracking.wandb_identity import Job, chosen_run_id, new_run_id
from est_cli.tracking.wandb_mirror import Ending
from est_cli.tracking.wandb_sink import WandbSink

__all__ = [
    "Ending",
    "Followed",
    "In",
    "Job",
    "MetricsFile",
    "Record",
    "Tracker",
    "WandbSink",
    "chosen_run_id",
    "count_records",
    "followers",
    "lost_records",
    "new_run_id",
    "read_metrics",
    "record_of",
    "repeated_records",
]


class Tracker:
    """Writes each record to the file, which W&B follows; the keys are declared in records.py.

    Rank 0 tells; the tracker of any other rank has neither file nor W&B.
    """

    def __init__(
        self,
        metrics: MetricsFile | None,
        wandb: WandbSink | None,
        counts: dict[str, int] | None = None,
        layers: MetricsFile | None = None,
        also: Sequence[Follower] = (),
    ) -> None:
        """`counts`: records of each kind in `metrics` so far, which is kept up to date; `layers`: of layers' health;
        `also`: what follows `metrics` by itself."""
        self.also = also
        self.metrics = metrics
        self.of_layers = layers
        self.wandb = wandb
        self.counts = {} if counts is None else counts

    def train(self, record: Record) -> None:
        """One optimizer step."""
        self._write(record_of(In.step, record))

    def validation(self, record: Record) -> None:
        """One evaluation of the complete model."""
        self._write(record_of(In.validation, record))

    def transition(self, record: Record) -> None:
        """A change of stage."""
        self.event(In.transition, record)

    def event(self, event: In, record: Record) -> None:
        """Anything else that happened at `record["step"]`."""
        self._write(record_of(event, {"event": event.value} | record))

    def layers(self, record: Record) -> None:
        """The layers' health at a step."""
        if self.of_layers is not None:
            self.of_layers.append(record_of(In.layers, record))

    def end_record(self) -> None:
        """The files are whole."""
        for file in self._files:
            file.close()

    def close(self, ending: Ending) -> None:
        """End the record and what mirrors it; may be called again."""
        self.end_record()
        whole = ending.summary is not None
        for follower in self.also:
            follower.end(whole)
        for follower in self.also:
            follower.close(whole)
        if self.wandb is not None:
            self.wandb.finish(ending)

    def sync(self) -> None:
        """Have the disk hold every record so far. Raises StorageError."""
        for file in self._files:
            file.sync()

    @property
    def _files(self) -> list[MetricsFile]:
        return [file for file in (self.metrics, self.of_layers) if file is not None]

    def _write(self, record: Record) -> None:
        if self.metrics is not None:
            self.metrics.append(record)
            self.counts[kind_of(record)] = self.counts.get(kind_of(record), 0) + 1
