"""The record of a run and what follows it: opened with the run, closed with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import is_preemption
from est_cli.config import RunConfig
from est_cli.config.schema import tracked_settings
from est_cli.reporting.records import check_records
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import (
    Ending,
    Followed,
    Job,
    MetricsFile,
    Tracker,
    WandbSink,
    chosen_run_id,
    count_records,
    followers,
    lost_records,
    new_run_id,
    read_metrics,
    repeated_records,
)
from est_cli.tracking.progress import RunProgress
from est_cli.tracking.wandb_identity import PROJECT
from est_cli.training.run import RunState


def open_tracker(
    config: RunConfig, run_dir: RunDir, state: RunState, progress: RunProgress, facts: Mapping[str, Any]
) -> Tracker:
    """What the first process tells its records: the files, cut back to the checkpoint, and what follows these.

    `facts`: what is told beside the settings. Raises StorageError.
    """
    metrics, layers = MetricsFile(run_dir.metrics), MetricsFile(run_dir.layers)
    for file in (metrics, layers):
        file.truncate_after(state.step)
    _tell_lost(config, run_dir, state, progress)
    assert config.run_name is not None
    state.wandb_run_id = chosen_run_id(config.tracking, config.sweep, os.environ) or state.wandb_run_id or new_run_id()
    job = Job(config.run_name, state.wandb_run_id, run_dir.root, config.sweep, "train")
    settings, names = tracked_settings(config), state.tracker_names
    told = settings | {"est": facts}
    sink = WandbSink(config.tracking, job, told, run_dir, progress.line, names=names, first_step=state.step)
    progress.echo = sink.line
    project, store = config.tracking.project or PROJECT, config.paths.outputs_folder / "mlflow.db"
    followed = Followed(run_dir.root, config.run_name, project, state.step, settings, store, names)
    also = followers(config.tracking.also, followed, progress.line)
    return Tracker(metrics, sink, state.records, layers, also)


def _tell_lost(config: RunConfig, run_dir: RunDir, state: RunState, progress: RunProgress) -> None:
    """Say which records a checkpoint has counted that are not there; count them where it is of an older version.

    Raises StorageError for one that is damaged.
    """
    records = read_metrics(run_dir.metrics) if run_dir.metrics.exists() else []
    check_records(records, run_dir.metrics)  # now, and not only when all steps are done
    state.records = state.records or count_records(records)
    lost = lost_records(state.records, records, state.step, config.train.log_every)
    if repeated := repeated_records(records):
        progress.line(f"warning: {run_dir.metrics}: {repeated}; of each the last one counts")
    if lost:
        progress.line(f"warning: {run_dir.metrics}: {lost} are lost; the summary will say nothing of the stages")


def stopped(tracker: Callable[[], Tracker]) -> Callable[[object, BaseException | None, object], None]:
    """Ends the record of a run that has not come to its end; `tracker`: that which it has by then."""

    def close(kind: object, error: BaseException | None, trace: object) -> None:
        tracker().close(
            Ending(preempted=isinstance(error, StoppedBySignal) and is_preemption(error.signum, os.environ))
        )

    return close
