"""A run's folder below outputs/: what lies where, who may make it, and who owns it. Standard library only."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from est_cli.common.errors import CheckpointError, ConfigError, RunLockedError, StorageError
from est_cli.common.nearby import looks_like_a_path, no_folder
from est_cli.storage import disk, strict_json

OUTPUTS = Path("outputs")
"""Every run's folder lies here, or in a folder here that groups a sweep's runs, unless paths.outputs is another."""
OUTPUTS_VARIABLE = "EST_OUTPUTS"
"""Names another folder, where paths.outputs does not."""
LAST_PLOT = "coverage.png"
"""What is written last of plots/."""
MAX_NAME = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=-]*")
_IN_NO_NAME = re.compile(r"[^A-Za-z0-9_.,=-]+")
LOCK = ".lock"


@dataclass(frozen=True)
class RunDir:
    """The paths inside one run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration; its presence makes the folder a run."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.root / "metrics.jsonl"

    @property
    def layers(self) -> Path:
        """One JSON object per step at which the layers' health was measured."""
        return self.root / "layers.jsonl"

    @property
    def summary(self) -> Path:
        """Written last; its presence says that the run is finished."""
        return self.root / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def model(self) -> Path:
        """The final model."""
        return self.root / "model"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def wandb(self) -> Path:
        return self.root / "wandb"

    def is_finished(self) -> bool:
        return self.summary.exists()

    def is_drawn(self) -> bool:
        return (self.plots / LAST_PLOT).exists()

    def is_unfinished(self) -> bool:
        return self.config.exists() and not self.is_finished()


def default_run_name(model: str, scheduler: str, now: datetime) -> str:
    """`MODEL-SCHEDULER-YYYYMMDD-HHMMSS`, with characters that no run name may have replaced by `-`."""
    name = _IN_NO_NAME.sub("-", f"{model}-{scheduler}-{now:%Y%m%d-%H%M%S}")
    return name.lstrip("_.,=-")[-MAX_NAME:]


def check_run_name(name: str, key: str = "run_name") -> None:
    """ConfigError unless `name` can be a folder's name: letters, digits and `_.,=-`, no path."""
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise ConfigError(
            f"{key}: {name!r} is no folder name; use up to {MAX_NAME} letters, digits and `_ . , = -`, "
            "beginning with a letter or digit"
        )


def create_run_dir(outputs: Path, name: str) -> RunDir:
    """Make outputs/name, or take it if it is empty; anything already there is left alone (ConfigError)."""
    check_run_name(name)
    run = RunDir(outputs / name)
    with disk.storage_errors(run.root):
        outputs.mkdir(parents=True, exist_ok=True)
        try:
            run.root.mkdir()
        except FileExistsError:
            _refuse_used(run)
        disk.sync_folder(outputs)
    return run


def check_place(folder: Path) -> None:
    """StorageError where `folder` is none and none can be made; makes nothing."""
    nearest = check_no_file(folder, "results are written into")
    if not os.access(nearest, os.W_OK | os.X_OK):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        raise StorageError(f"{folder}: {os.strerror(errno.EROFS if read_only else errno.EACCES)}")


def check_no_file(folder: Path, use: str) -> Path:
    """The folder, or the nearest above it that is there. StorageError where that is none; `use`: `WHAT is kept in`."""
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not os.path.isdir(nearest):
        what = "a link to nothing" if nearest.is_symlink() and not os.path.exists(nearest) else "no folder"
        raise StorageError(f"{nearest}: is {what}, and {use} {folder}; move it away")
    return nearest


def check_unused(outputs: Path, name: str) -> None:
    """ConfigError where create_run_dir() would refuse; makes nothing."""
    check_run_name(name)
    run = RunDir(outputs / name)
    with disk.storage_errors(run.root):
        if os.path.lexists(run.root):
            _refuse_used(run)


def find_unfinished(outputs: Path, matches: Callable[[Path], bool]) -> Path | None:
    """The newest unfinished run folder in `outputs` for which `matches(folder)` is true, by the time it was started."""
    return _newest(outputs, RunDir.is_unfinished, matches)


def find_finished(outputs: Path, matches: Callable[[Path], bool]) -> Path | None:
    """The same among the finished ones."""
    return _newest(outputs, lambda run: run.config.exists() and run.is_finished(), matches)


def _newest(outputs: Path, wanted: Callable[[RunDir], bool], matches: Callable[[Path], bool]) -> Path | None:
    if not outputs.is_dir():
        return None
    with disk.storage_errors(outputs):
        runs = [RunDir(path) for path in outputs.iterdir() if path.is_dir() and not path.is_symlink()]
        found = [run for run in runs if wanted(run)]
        found.sort(key=lambda run: (run.config.stat().st_mtime_ns, run.root.name), reverse=True)
    return next((run.root for run in found if matches(run.root)), None)


def write_json(path: Path, obj: dict[str, Any]) -> None:
    """Replace `path` by `obj` as JSON, in one go and synced. StorageError; ValueError for NaN and infinity."""
    disk.replace_file(path, strict_json.write_object(obj))


def write_result(path: Path, obj: dict[str, Any], limit: int, remedy: str = "") -> None:
    """The same of what nobody checked before: StorageError also for NaN, infinity and more than `limit` bytes."""
    try:
        data = strict_json.write_object(obj, limit)
    except ValueError as error:
        raise StorageError(f"{path}: {error}{remedy}") from error
    disk.replace_file(path, data)


@contextmanager
def lock(run: RunDir) -> Iterator[None]:
    """Own the run's folder until the end of the block, or of this process, however it ends.

    RunLockedError if another process owns it. A lock file that nobody holds any more does not count.
    """
    path = run.root / LOCK

    def busy(fd: int) -> None:
        owner = re.match(rb"[0-9]{1,10}\n", os.pread(fd, 11, 0))
        who = f"process {int(owner[0])}" if owner else "another process"
        raise RunLockedError(f"{run.root}: in use by {who}; wait until it ends, or choose another run_name") from None

    with disk.locked(path, busy, lambda why: f"{path}: cannot be locked on this file system ({why})") as fd:
        with disk.storage_errors(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield


def _refuse_used(run: RunDir) -> None:
    root = run.root
    if root.is_symlink() or not root.is_dir():
        raise ConfigError(f"run_name: {root} is there and is not a folder; choose another run_name")
    if run.is_finished():
        raise ConfigError(
            f"run_name: {root} is a finished run and is never overwritten; choose another run_name, "
            f"or make it longer: resume={root} train.max_steps=..."
        )
    if run.is_unfinished():
        raise ConfigError(f"run_name: {root} is an unfinished run; continue it with resume={root}, or choose another")
    if not holds_nothing(root):
        raise ConfigError(f"run_name: {root} holds files that are no run's; choose another run_name")


def holds_nothing(folder: Path) -> bool:
    """Whether there is nothing in it but what a command leaves that was killed before it had written anything."""
    return all(name == LOCK or name.startswith(".tmp-") for name in os.listdir(folder))


def remove_unused(folder: Path) -> None:
    """Take away the folder of a command that has written nothing into it. Call it holding the lock."""
    with suppress(OSError):  # something was written
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
        folder.rmdir()


def model_folder(name: str) -> str:
    """`name`, or where it is a run's folder that of the run's final model in it."""
    final = Path(name) / "model"
    return str(final) if not (Path(name) / "config.json").exists() and (final / "config.json").exists() else name


def name_of_model(checkpoint: str, longest: int = MAX_NAME) -> str:
    """What a folder of results is named by: the model's run, its folder or its hub id."""
    place = Path(model_folder(checkpoint))
    name = (run_of(place) or place).resolve().name if place.is_dir() else str(place)
    return _IN_NO_NAME.sub("-", name)[-longest:]


def local_model(key: str, name: str, outputs: Path = OUTPUTS) -> Path | None:
    """The model's folder, None for a hub id; what begins with `outputs` is none.

    Raises ConfigError and CheckpointError where there is no model.
    """
    place = Path(model_folder(name))
    if not place.is_dir():
        if looks_like_a_path(name, str(outputs)) or name.count("/") > 1:
            raise ConfigError(f"{key}: {no_folder(name)}")
        return None
    if not (place / "config.json").exists():
        raise CheckpointError(f"{place}: {_no_model(RunDir(place))}")
    return place


def _no_model(run: RunDir) -> str:
    if not run.is_unfinished():
        return "holds no config.json, so this is no model; give a folder such as .../model"
    if former := sorted(path.parent for path in run.root.glob("ended-*/model/config.json")):
        return f"is a run that was made longer and has not ended yet; give its former end, {former[-1]}"
    checkpoints = sorted(path.parent for path in run.checkpoints.glob("step-*/config.json"))
    then = f"give a checkpoint of it, such as {checkpoints[-1]}" if checkpoints else "there is no checkpoint of it yet"
    return f"is an unfinished run and has no final model; {then}"


def run_of(place: Path) -> Path | None:
    """The folder of the run that a model is from: RUN itself, RUN/model or RUN/checkpoints/step-N; None for others."""
    return next(
        (folder for folder in (place, place.parent, place.parent.parent) if RunDir(folder).config.exists()), None
    )
