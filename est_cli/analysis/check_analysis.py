"""What est-analyze checks before torch: the checkpoints, and the folder for its results.

Nothing heavy is imported here: what is missing is told before torch starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from est_cli.common.errors import ConfigError
from est_cli.config import AnalyzeConfig
from est_cli.config.analyze import check_analyze
from est_cli.storage.run_dir import (
    MAX_NAME,
    RunDir,
    check_place,
    check_run_name,
    holds_nothing,
    local_model,
    name_of_model,
)
from est_cli.storage.store import step_folders

CONTINUES = "nothing was written; the same command begins anew"
"""What to do after it was stopped, or a process was lost."""
LESS_MEMORY = "analyze.batch: out of memory; use a smaller one, or a smaller analyze.seq_len"


def preflight(config: AnalyzeConfig, given: set[str]) -> AnalyzeConfig:
    """The configuration, checked. Raises an EstError for whatever can be told before torch is loaded."""
    check_analyze(config)
    if config.run_name is not None:
        check_run_name(config.run_name)
    check_inputs(config)
    return config


def check_inputs(config: AnalyzeConfig) -> None:
    """Raise ConfigError or CheckpointError for models that are not there, and for a folder that is used already.

    What is on the hub is not looked at.
    """
    outputs = config.paths.outputs_folder
    for _, place in requested_checkpoints(config):
        local_model("checkpoint", place, outputs)
    if config.baseline is not None:
        local_model("baseline", config.baseline, outputs)
    check_place(outputs)
    if config.run_name is not None and is_used(outputs / config.run_name):
        raise taken(outputs / config.run_name)


def requested_checkpoints(config: AnalyzeConfig) -> list[tuple[int | None, str]]:
    """(None, the checkpoint); or (step, folder) of all that its run kept. ConfigError where that is none."""
    name = str(config.checkpoint)
    if not config.analyze.transitions:
        return [(None, name)]
    found = step_folders(RunDir(Path(name)).checkpoints)
    if not found:
        raise ConfigError(
            f"checkpoint: {name} is no folder of a run with checkpoints, as analyze.transitions=true needs; "
            "give outputs/NAME"
        )
    return [(step, str(path)) for step, path in found]


def default_folder(config: AnalyzeConfig, number: int) -> Path:
    """analyze-NAME-ANALYSIS in paths.outputs, and where `number` is above 1 with it behind."""
    name = name_of_model(str(config.checkpoint), MAX_NAME // 2)
    return config.paths.outputs_folder / f"analyze-{name}-{config.analysis.value}{f'-{number}' if number > 1 else ''}"


def taken(folder: Path) -> ConfigError:
    """What is told of a folder that is used already."""
    return ConfigError(f"run_name: {folder} is there and is never overwritten; choose another one")


def is_used(folder: Path) -> bool:
    """Whether it is none, or something was written into it."""
    return os.path.lexists(folder) and not (folder.is_dir() and holds_nothing(folder))
