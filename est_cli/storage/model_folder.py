"""Where the model is that a setting names. Nothing heavy is imported: what is missing is told before torch starts."""

from __future__ import annotations

from pathlib import Path

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.storage.run_dir import OUTPUTS, RunDir


def model_folder(name: str) -> str:
    """`name`, or where it is a run's folder that of the run's final model in it."""
    final = Path(name) / "model"
    return str(final) if not (Path(name) / "config.json").exists() and (final / "config.json").exists() else name


def local_model(key: str, name: str) -> Path | None:
    """The model's folder, None for a hub id. Raises ConfigError and CheckpointError where there is no model."""
    place = Path(model_folder(name))
    if not place.is_dir():
        if name.startswith((".", "/", "~", f"{OUTPUTS}/")) or name.count("/") > 1:
            raise ConfigError(f"{key}: there is no folder {name}")
        return None
    if not (place / "config.json").exists():
        raise CheckpointError(f"{place}: {_no_model(RunDir(place))}")
    return place


def _no_model(run: RunDir) -> str:
    if not run.is_unfinished():
        return "holds no config.json, so this is no model; give a folder such as .../model"
    checkpoints = sorted(path.parent for path in run.checkpoints.glob("step-*/config.json"))
    then = f"give a checkpoint of it, such as {checkpoints[-1]}" if checkpoints else "there is no checkpoint of it yet"
    return f"is an unfinished run and has no final model; {then}"


def run_of(place: Path) -> Path | None:
    """The folder of the run that a model is from: RUN itself, RUN/model or RUN/checkpoints/step-N; None for others."""
    return next(
        (folder for folder in (place, place.parent, place.parent.parent) if RunDir(folder).config.exists()), None
    )
