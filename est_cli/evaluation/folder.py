"""Where the results of an evaluation are kept: the folder of the run that the checkpoint is from, or one of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError
from est_cli.config import EvalConfig
from est_cli.distributed.workers import Processes
from est_cli.storage import disk, strict_json
from est_cli.storage.run_dir import MAX_NAME, OUTPUTS, RunDir, lock, model_folder, run_of

ZERO_SHOT = "zero_shot.json"
IDENTITY = ("checkpoint", "task", "settings_digest")
"""What a result is known by in it."""


def results_folder(config: EvalConfig) -> Path:
    """outputs/[SWEEP/]RUN_NAME where it is given; else the run's folder; else outputs/eval-NAME."""
    if config.run_name is not None:
        return OUTPUTS / (config.sweep or "") / config.run_name
    place = Path(model_folder(str(config.checkpoint)))
    if (run := run_of(place)) is not None:
        return run
    name = place.resolve().name if place.is_dir() else str(place)
    return OUTPUTS / f"eval-{re.sub('[^A-Za-z0-9_.,=-]+', '-', name)[-MAX_NAME:]}"


@contextmanager
def owned_results(config: EvalConfig, processes: Processes) -> Iterator[Path]:
    """The folder, made and locked by the first process until the end of the block; only that one may write there."""
    folder = results_folder(config)
    if not processes.first:
        yield folder
        return
    with disk.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock(RunDir(folder)):
        yield folder


def zero_shot_results(folder: Path) -> list[dict[str, Any]]:
    """What is in zero_shot.json, none where it is not there. DataError for a file that is not ours."""
    path = folder / ZERO_SHOT
    try:
        found = list(strict_json.read_file(path)["records"]) if path.exists() else []
        for entry in found:
            _ = [entry[name] for name in IDENTITY]
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: holds no results of est-eval ({error}); move it away to begin anew") from error


def keep_zero_shot(folder: Path, result: dict[str, Any]) -> None:
    """Add a result to zero_shot.json, in place of one of the same checkpoint, task and settings."""

    def key(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[name] for name in IDENTITY)

    others = [entry for entry in zero_shot_results(folder) if key(entry) != key(result)]
    disk.replace_file(folder / ZERO_SHOT, strict_json.write_object({"records": [*others, result]}))
