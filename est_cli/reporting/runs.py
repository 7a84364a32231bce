"""Run folders, read: settings, records, summary, and how far each step was in tokens, FLOPs and seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from est_cli.common.errors import CheckpointError, ConfigError, StorageError
from est_cli.config import RunConfig
from est_cli.config.batch import batch_problems, batch_schedule, largest_step, longest_sequence, varies
from est_cli.config.length import max_steps
from est_cli.config.schedulers import scheduler_named
from est_cli.config.stored import stored_config
from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.reporting.layers import read_layers
from est_cli.reporting.records import (
    LARGEST,
    Record,
    check_records,
    column,
    odd_values,
    training_records,
    transition_steps,
    validation_records,
)
from est_cli.reporting.stages import stage_summaries
from est_cli.storage import strict_json
from est_cli.storage.run_dir import RunDir
from est_cli.tracking.metrics import read_metrics

DEPTH = 3
"""How far below a folder of the command line runs are looked for: outputs/, a sweep, a run."""


class Axis(StrEnum):
    """What a run can be measured along, from its start to a step."""

    steps = "steps"
    tokens = "tokens"
    flops_total = "flops_total"
    flops_blocks = "flops_blocks"
    seconds = "seconds"
    """Of training steps: the mean step time of each record times the steps it stands for."""
    dense_steps = "dense_steps"
    """FLOPs of `blocks`, in units of what one step of a dense run takes."""


@dataclass(frozen=True)
class RunRecord:
    """One run's folder. `name` is the path as the command line has it."""

    name: str
    config: RunConfig
    metrics: list[Record]
    summary: Record | None
    """None while the run is not finished."""
    state: Record
    """Of the newest checkpoint; empty without one."""
    layers: Sequence[Record] = ()
    """The layers' health, see layers.py."""

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def final_loss(self) -> float | None:
        """Validation loss after the last step, None before the run is finished."""
        return None if self.summary is None else self.summary.get("final_val_loss")

    @cached_property
    def train(self) -> list[Record]:
        return training_records(self.metrics)

    @cached_property
    def validation(self) -> list[Record]:
        return validation_records(self.metrics)

    @cached_property
    def transitions(self) -> list[int]:
        """First steps of the stages after the first."""
        return transition_steps(self.metrics)

    @cached_property
    def steps(self) -> int:
        """What the run has done so far."""
        return max((record["step"] for record in self.metrics), default=0)

    @property
    def planned_steps(self) -> int:
        return max_steps(self.config)

    @cached_property
    def batch(self) -> BatchSchedule:
        """Of each step; ValueError where its stages cannot be made."""
        train = self.config.train
        if varies(train):
            scheduler = scheduler_named(self.config.scheduler.name).make(self.planned_steps, self.config.stage)
            return batch_schedule(train, scheduler)
        seq_len = longest_sequence(train)
        step = StepBatch(largest_step(train) // seq_len, seq_len)
        return BatchSchedule((self.planned_steps,), (step,))

    def recorded(self, key: str) -> Any:
        """From the summary, or as long as it has no such key from the newest checkpoint; None where neither has it."""
        found = None if self.summary is None else self.summary.get(key)
        return self.state.get(key) if found is None else found

    def position(self, axis: Axis, steps: np.ndarray) -> np.ndarray:
        """How far the run was along `axis` after each of `steps` (float64, same shape); NaN where nobody knows."""
        if axis is Axis.steps:
            return steps.astype(float)
        if axis is Axis.tokens:
            ends = [0, *self.batch.ends]
            return np.interp(steps, ends, [self.batch.tokens_before(end) for end in ends])
        known_steps, known = self._logged(axis)
        return np.interp(steps, known_steps, known, right=np.nan) if len(known) > 1 else np.full(len(steps), np.nan)

    def end(self, axis: Axis) -> float:
        """How far the run is along `axis` by now; NaN where nobody knows."""
        return float(self.position(axis, np.array([self.steps]))[0])

    @cached_property
    def full_step_s(self) -> float | None:
        """Median seconds of a step of the complete model, in the last stage that has it; None where none has."""
        full = [stage.median_step_s for stage in stage_summaries(self.metrics) if stage.full]
        return full[-1] if full else None

    @cached_property
    def _along(self) -> dict[Axis, tuple[np.ndarray, np.ndarray]]:
        """What _logged has found, which a report asks for hundreds of times."""
        return {}

    def _logged(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        """Steps 0, ... of the training records and how far the run was after them."""
        if axis not in self._along:
            self._along[axis] = self._measured(axis)
        return self._along[axis]

    def _measured(self, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
        steps = np.concatenate([[0.0], column(self.train, "step")])
        if axis is Axis.seconds:
            return steps, np.concatenate([[0.0], np.cumsum(column(self.train, "step_s") * np.diff(steps))])
        if axis is Axis.flops_total:
            return steps, np.concatenate([[0.0], column(self.train, "flops")])
        dense_steps = steps[1:] * (1 - column(self.train, "flops_saved_pct_blocks") / 100)
        dense_steps = np.concatenate([[0.0], dense_steps])
        if axis is Axis.dense_steps:
            return steps, dense_steps
        return steps, dense_steps * self._blocks_flops_per_dense_step(steps, dense_steps)

    def _blocks_flops_per_dense_step(self, steps: np.ndarray, dense_steps: np.ndarray) -> float:
        """The records have only the total; a checkpoint or the summary has the blocks' FLOPs at its step."""
        source = self.summary if self.summary is not None and "flops_blocks" in self.summary else self.state
        at, blocks = source.get("step", source.get("steps")), source.get("flops_blocks")
        if at is None or blocks is None or len(steps) < 2:
            return float("nan")
        return float(blocks / np.interp(float(at), steps, dense_steps))


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among `folders` and below them, each once. ConfigError for a folder without any."""
    found: dict[Path, Path] = {}
    for folder in folders:
        below = list(runs_below(folder, DEPTH))
        if not below:
            raise ConfigError(
                f"{folder}: holds no run (a folder with a config.yaml) and no sweep of runs; "
                "give outputs, or the folder of one: outputs/NAME"
            )
        for path in below:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """The folder itself where it is a run's, else those of runs at most so many folders below it."""
    if RunDir(folder).config.is_file():
        yield folder
    elif depth:
        for child in sorted(folder.iterdir(), key=_natural):
            if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                yield from runs_below(child, depth - 1)


def _natural(path: Path) -> list[tuple[int, str]]:
    """An order in which seed=10 comes after seed=2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_run(folder: Path) -> RunRecord:
    """The run in `folder`, finished or not. CheckpointError or StorageError names a file that cannot be read.

    Runs may be anybody's: what is not as est-train writes it is refused here.
    """
    run, config = RunDir(folder), stored_config(folder)
    if [*batch_problems(config.train)] or not (largest_step(config.train) > 0 and 0 < max_steps(config) < LARGEST):
        raise CheckpointError(f"{run.config}: train: a run has steps, and tokens in a step")
    metrics = read_metrics(run.metrics) if run.metrics.exists() else []
    check_records(metrics, run.metrics)
    layers = read_layers(run.layers)
    record = RunRecord(str(folder), config, metrics, _summary(run), _newest_state(run.checkpoints), layers)
    try:
        assert record.batch.max_steps == record.planned_steps
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{run.config}: the batches of its stages cannot be told ({error})") from error
    return record


def _summary(run: RunDir) -> Record | None:
    try:
        found = strict_json.read_file(run.summary) if run.is_finished() else None
        odd = odd_values(found or {})
        if odd:
            raise ValueError(f"no proper value for `{odd[0]}`")
    except (OSError, ValueError) as error:
        raise StorageError(f"{run.summary}: cannot be read ({error}); is it a file that a run wrote?") from error
    return found


def _newest_state(checkpoints: Path) -> Record:
    """A damaged or half-removed checkpoint is no reason to show no report."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            state = strict_json.read_file(folder / "state.json")
        except (OSError, ValueError):
            continue
        if type(state.get("step")) is int and not odd_values(state):
            return state
    return {}
