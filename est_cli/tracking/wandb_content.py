"""What W&B shows of the records beside their numbers: tables of transitions and samples, and alerts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from est_cli.tracking import wandb_api
from est_cli.tracking.records import In, Record

TABLE_EVERY_S = 60.0
"""A table is sent whole each time it has grown, so not more often than this."""

COLUMNS = {
    In.transition: ("step", "from_stage", "to_stage", "loss_before", "loss_after"),
    In.sample: ("step", "prompt", "text"),
}
TABLES = {In.transition: "est/transitions", In.sample: "est/samples"}


@dataclass
class Content:
    """Of one run in W&B; a run that is opened anew (a late start) begins with `again()`."""

    alerts: bool
    first_step: int
    """Steps that were done when the process began: what happened up to there was told then."""
    clock: Callable[[], float] = time.monotonic
    _rows: dict[In, list[Record]] = field(default_factory=lambda: {event: [] for event in TABLES})
    _sent: dict[In, int] = field(default_factory=dict)
    _sent_at: float = float("-inf")
    _alerted: set[tuple[str, int]] = field(default_factory=set)

    def again(self) -> None:
        """Forget what was sent, but not which alerts."""
        self._rows, self._sent = {event: [] for event in TABLES}, {}

    def take(self, run: Any, record: Record) -> None:
        """A record of an event; others are left alone."""
        if "event" not in record:
            return
        if (event := record["event"]) in TABLES:
            self._rows[In(event)].append(record)
        told = (event, record["step"])
        if self.alerts and record["step"] > self.first_step and told not in self._alerted:
            self._alerted.add(told)
            _alert(run, record)

    def send_tables(self, run: Any, step: int, last: bool = False) -> None:
        """Those that have grown, if it is time, or at the `last`."""
        grown = [event for event, rows in self._rows.items() if len(rows) > self._sent.get(event, 0)]
        if not grown or not (last or self.clock() - self._sent_at >= TABLE_EVERY_S):
            return
        self._sent_at = self.clock()
        for event in grown:
            rows = self._rows[event]
            self._sent[event] = len(rows)
            cells = ([row.get(key) for key in COLUMNS[event]] for row in rows)
            wandb_api.log_table(run, TABLES[event], COLUMNS[event], cells, step)

    def diagnosed(self, run: Any, diagnoses: Sequence[str]) -> None:
        """What looks wrong at the end of the run."""
        if self.alerts and diagnoses:
            wandb_api.alert(run, "What looks wrong", "\n".join(f"- {line}" for line in diagnoses), "WARN")


def _alert(run: Any, record: Record) -> None:
    if record.get("event") == In.transition:
        losses = ("?" if record.get(key) is None else f"{record[key]:.4f}" for key in ("loss_before", "loss_after"))
        text = f"stage {record['from_stage']} -> {record['to_stage']}: loss {' -> '.join(losses)}"
        wandb_api.alert(run, f"Stage {record['to_stage']} from step {record['step']}", text, "INFO")
    if record.get("event") == In.not_finite:
        text = f"step {record['step']}: its loss or gradient was not finite and its update was left out"
        wandb_api.alert(run, "Not finite", text, "ERROR")
    if record.get("event") == In.skipped:
        text = f"step {record['step']}: loss {record['spike_loss']:.4f}; its update was left out"
        wandb_api.alert(run, "Spike", text, "WARN")
    if record.get("event") == In.rewind:
        spike = f"step {record['from_step']}: loss {record['spike_loss']:.4f}"
        text = f"{spike}; back to step {record['step'] - 1}, {record['samples']} samples are passed over"
        wandb_api.alert(run, "Spike", text, "WARN")
