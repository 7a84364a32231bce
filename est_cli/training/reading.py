"""Which samples the steps of a run read; a sample is a block of the text (est/batch.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from est_cli.est.batch import BatchSchedule


@dataclass
class Reading:
    """One step's samples after the other's, but for those that the run has passed over (rewind.py)."""

    batch: BatchSchedule
    passed: list[list[int]] = field(default_factory=list)
    """By rising step: the steps that were done when the run went back there, how many samples are passed over from
    there on, how often it has gone back there."""

    def first_sample(self, step: int) -> int:
        """The number of the first sample of `step` (0-based), counted over the run."""
        return self.batch.blocks_before(step) + self.passed_by(step)

    def samples_at(self, step: int) -> int:
        """How many `step` reads, over all processes."""
        return self.batch.blocks_at(step)

    def passed_by(self, step: int) -> int:
        """How many samples before those of `step` no step that counts has read."""
        return sum(samples for since, samples, _ in self.passed if since <= step)
