"""What est-analyze checks before torch: the checkpoints, and the folder for its results.

Nothing heavy is imported here: what is missing is told before torch starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import Analysis, AnalyzeConfig
from est_cli.config.analyze import check_analyze
from est_cli.config.resolve import resolve
from est_cli.config.stored import stored_config
from est_cli.storage.run_dir import (
    MAX_NAME,
    RunDir,
    check_place,
    check_run_name,
    holds_nothing,
    local_model,
    name_of_model,
    run_of,
)
from est_cli.storage.store import OPTIMIZER, holds_moments, step_folders

CONTINUES = "nothing was written; the same command begins anew"
"""What to do after it was stopped, or a process was lost."""
LESS_MEMORY = "analyze.batch: out of memory; use a smaller one, or a smaller analyze.seq_len"


def preflight(config: AnalyzeConfig, given: set[str]) -> AnalyzeConfig:
    """The configuration, checked. Raises an EstError for whatever can be told before torch is loaded."""
    check_analyze(config)
    if config.analysis is Analysis.prices:
        _refuse_text(given)
    if config.run_name is not None:
        check_run_name(config.run_name)
    check_inputs(config)
    return config


def _refuse_text(given: set[str]) -> None:
    """ConfigError where a text is given: it is the run's own."""
    for key in sorted({key.partition(".")[0] for key in given} & {"dataset", "tokenizer"}):
        raise ConfigError(f"{key}: has no meaning under analysis=prices, which trains and measures on the run's own")


def check_inputs(config: AnalyzeConfig) -> None:
    """Raise ConfigError or CheckpointError for models that are not there, and for a folder that is used already.

    What is on the hub is not looked at.
    """
    outputs = config.paths.outputs_folder
    if not os.path.isdir(str(config.checkpoint)):
        local_model("checkpoint", str(config.checkpoint), outputs)
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
    if config.analysis is Analysis.prices:
        return priced_checkpoints(config)
    if not config.analyze.transitions:
        return [(None, name)]
    found = step_folders(RunDir(Path(name)).checkpoints)
    if not found:
        raise ConfigError(
            f"checkpoint: {name} is no folder of a run with checkpoints, as analyze.transitions=true needs; "
            "give outputs/NAME"
        )
    return [(step, str(path)) for step, path in found]


def run_of_prices(config: AnalyzeConfig) -> Path:
    """The run whose training goes on. ConfigError where there is none, CheckpointError for its final model."""
    place = Path(str(config.checkpoint))
    folder = run_of(place)
    if folder is None:
        raise ConfigError(
            f"checkpoint: {place} is of no run of est-train, which analysis=prices trains on from a checkpoint of"
        )
    if folder not in (place, place.parent.parent):
        raise CheckpointError(f"{place}: has no optimizer state to train on with; give {folder}, or a checkpoint in it")
    return folder


def priced_checkpoints(config: AnalyzeConfig) -> list[tuple[int | None, str]]:
    """Of a run's folder its newest checkpoint that leaves room for a segment, with analyze.transitions all of them; or
    the one that is named. Raises ConfigError, CheckpointError."""
    place, folder = Path(str(config.checkpoint)), run_of_prices(config)
    kept = step_folders(RunDir(folder).checkpoints)
    found = kept if place == folder else [one for one in kept if one[1].name == place.name]
    run = resolve(stored_config(folder))
    if run.scheduler.growth:
        raise ConfigError(f"checkpoint: {folder} grows its model, and prices are those of a complete one")
    room, end = config.analyze.steps + config.analyze.cooldown, run.decay_begin or run.max_steps
    roomy = [(step, path) for step, path in found if 0 < step <= end - room]
    if not roomy:
        steps = ", ".join(str(step) for step, _ in found) or "none"
        raise ConfigError(
            f"checkpoint: {place} has the steps {steps}; none lies {room} (analyze.steps and analyze.cooldown) before "
            f"step {end}, where the run's {'rate falls' if run.decay_begin else 'steps end'}; a run keeps more by "
            "train.keep_every, of what train.checkpoint_every saves"
        )
    for _, path in roomy:
        if not holds_moments(path):
            raise CheckpointError(f"{path / OPTIMIZER}: missing, so this is no training checkpoint to continue from")
    return [(step, str(path)) for step, path in (roomy if config.analyze.transitions else roomy[-1:])]


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
