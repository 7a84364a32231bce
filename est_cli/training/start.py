"""Which run a command line means: a new one, or one in paths.outputs that is continued with its own configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.common.errors import CheckpointError, ConfigError, NumericsError, RunLockedError, StorageError
from est_cli.config import RunConfig
from est_cli.config.length import max_steps, with_steps
from est_cli.config.resolve import Resolved, check, depends_on_split, resolve
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.config.setting import AUTO, FREE, SETTLED, Given, keys_with, left_open
from est_cli.config.stored import keys_newer_than, stored_config
from est_cli.storage import strict_json
from est_cli.storage.run_dir import (
    RunDir,
    check_place,
    check_run_name,
    check_unused,
    find_finished,
    find_unfinished,
    lock,
)
from est_cli.storage.store import clean_leftovers, step_folders
from est_cli.training.branch import forked_config, may_change, run_named
from est_cli.training.extend import LENGTH, is_longer, longer, set_length

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A run to be started (`folder` None) or continued."""

    run: Resolved
    folder: Path | None
    announce: Callable[[Path], None] | None = None
    """Called by the first process with the run's folder, as soon as it has one."""
    precision_left_open: bool = False
    """Whether a run was found by its settings, of which the precision was none: it may have another one than asked."""

    @classmethod
    def of(cls, config: RunConfig, folder: Path | None, announce: Callable[[Path], None] | None = None) -> Start:
        """Of a configuration that was checked already."""
        return cls(resolve(config), folder, announce)

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        folder = self.folder
        return folder is not None and RunDir(folder).is_finished() and not is_longer(folder, self.config)

    @property
    def drawn(self) -> bool:
        """Whether a finished run has its plots; of a run that logs no step there are none."""
        assert self.folder is not None
        return RunDir(self.folder).is_drawn() or not self.config.train.log_every


ENDINGS = ("training loss", "validation loss", "weights")
"""What must be finite after the last step; else the run is lost."""


def lost_at_its_end(run_dir: RunDir, not_finite: Collection[str]) -> NumericsError:
    """What ends a run whose last step left something that is not finite, and a later resume of it."""
    what = " and ".join(name for name in ENDINGS if name in not_finite)
    return NumericsError(
        f"{run_dir.root}: not finite after the last step: {what}; train it anew with a lower optim.lr, "
        f"or go on from a checkpoint before: fork={run_dir.root}@STEP run_name=NAME optim.lr=..."
    )


def refuse_lost(folder: Path) -> None:
    """Raise NumericsError where the finished run in `folder` was lost at its end. A damaged summary says nothing."""
    run_dir = RunDir(folder)
    try:
        summary = strict_json.read_file(run_dir.summary)
    except (OSError, ValueError):
        return
    older = ["validation loss"] if summary.get("final_val_loss", 0.0) is None else []  # which did not say more
    not_finite = summary.get("not_finite", older)
    if isinstance(not_finite, list) and not_finite:
        raise lost_at_its_end(run_dir, not_finite)


def clean_finished(folder: Path) -> None:
    """Remove what a failing disk left in a finished run, unless it fails again or another process is at it."""
    run_dir = RunDir(folder)
    with suppress(StorageError, RunLockedError), lock(run_dir):
        clean_leftovers(run_dir.root)
        for place in (run_dir.checkpoints, run_dir.plots):
            clean_leftovers(place, within=run_dir.root)


def resolve_resume(config: RunConfig, given: Given) -> Start:
    """Find what `resume` means; `given` are the keys that the command line sets.

    A continued run keeps its stored configuration, with the free keys of `given` laid over it. Raises ConfigError where
    there is no such run or a frozen key differs, and for whatever check() finds; CheckpointError where the stored
    configuration is at fault.
    """
    if config.fork is not None:
        config = forked_config(config, given, begun=_has_begun(config))
    if config.resume == AUTO:
        config = with_steps(config)  # as the configuration of a run has them, by which it is found
    folder = _folder(config, given)
    if folder is None:
        run = check(config)
        _check_names(config)
        if config.run_name is not None:  # told before the text is read, which may take hours
            check_unused(runs_folder(config), config.run_name)
        check_place(runs_folder(config) / (config.run_name or ""))
        return Start(run, None)
    stored = stored_config(folder)
    merged = _merge(stored, config, given, folder)
    run = _checked(merged, stored, folder)
    if run.max_steps > max_steps(stored):
        run = check(longer(stored, merged, folder))
    found = config.resume == AUTO and config.run_name is None and config.train.precision is None
    return Start(run, folder, precision_left_open=found)


def _checked(merged: RunConfig, stored: RunConfig, folder: Path) -> Resolved:
    """Of a wrong setting the file is told where it is wrong by itself, and the command line where that made it so."""
    try:
        return check(merged)
    except ConfigError:
        try:
            check(stored)
        except ConfigError as error:
            raise CheckpointError(f"{RunDir(folder).config}: {error}") from error
        raise


def runs_folder(config: RunConfig) -> Path:
    """Where a run of this configuration has its folder: paths.outputs, or in it the folder of its sweep."""
    outputs = config.paths.outputs_folder
    return outputs if config.sweep is None else outputs / config.sweep


def _folder(config: RunConfig, given: Given) -> Path | None:
    if config.resume is None:
        return None
    if config.resume != AUTO:
        return run_named(config.resume, config.paths.outputs_folder, "resume")
    _check_names(config)
    runs = runs_folder(config)
    if config.run_name is not None:
        folder = runs / config.run_name
        return folder if RunDir(folder).config.exists() else None

    def matches(folder: Path) -> bool:
        return _same_run(folder, config, given)

    return find_unfinished(runs, matches) or find_finished(runs, matches)


def _has_begun(config: RunConfig) -> bool:
    """Whether the run that the configuration names has a checkpoint."""
    return config.run_name is not None and bool(step_folders(RunDir(runs_folder(config) / config.run_name).checkpoints))


def _check_names(config: RunConfig) -> None:
    if config.sweep is not None:
        check_run_name(config.sweep, "sweep")
    if config.run_name is not None:
        check_run_name(config.run_name)


def _same_run(folder: Path, config: RunConfig, given: Given) -> bool:
    """Whether all frozen keys agree, so that `resume=auto` without a run name may take this run."""
    try:
        stored, newer = _frozen(stored_config(folder)), keys_newer_than(folder) - given.named
    except CheckpointError:
        return False
    wanted = _frozen(config)
    passed = newer | {key for key in keys_with(RunConfig, SETTLED) if left_open(key, wanted[key])}
    return all(_same(stored.get(key), value) for key, value in wanted.items() if key not in passed)


def _same(one: Any, other: Any) -> bool:
    """Equal in value and type: as a stage boundary 1 is a step and 1.0 the end."""
    return repr(one) == repr(other)


def _other_way(key: str, folder: Path) -> str:
    """The fork that goes on with another value, where one can."""
    return f"; fork={folder}@STEP run_name=OTHER begins another run that has it" if may_change(key) else ""


def _merge(stored: RunConfig, config: RunConfig, given: Given, folder: Path) -> RunConfig:
    wanted, tree = leaves_of(plain(config)), plain(stored)
    of_length = _set_length(tree, stored, wanted, given, folder)
    for key in sorted(given & wanted.keys() - (keys_newer_than(folder) - given.named) - of_length):
        if key == "resume" or (key == "run_name" and wanted[key] == folder.resolve().name):
            continue
        group, _, name = key.rpartition(".")
        parent = tree[group] if group else tree
        if left_open(key, wanted[key]) and key in keys_with(RunConfig, SETTLED):
            continue  # it was settled when the run began
        if not _same(parent[name], wanted[key]) and (key in ("run_name", "sweep") or not _is_free(key, stored)):
            raise ConfigError(
                f"{key}: the run in {folder} was started with {parent[name]!r}, not {wanted[key]!r}; a key that "
                f"defines the run cannot change when it is resumed{_other_way(key, folder)}"
            )
        parent[name] = wanted[key]
    tree["run_name"], tree["resume"] = folder.resolve().name, str(folder)
    return typed(tree, RunConfig)


def _set_length(
    tree: dict[str, Any], stored: RunConfig, wanted: dict[str, Any], given: Given, folder: Path
) -> frozenset[str]:
    """Put a length that is given into `tree` and return its keys. ConfigError unless it makes the run longer."""
    before = leaves_of(plain(stored))
    named = [key for key in LENGTH if key in given and not _same(before[key], wanted[key])]
    if not named:
        return frozenset()
    set_length(tree, wanted, given)
    old, new = max_steps(stored), max_steps(typed(tree, RunConfig))
    if new <= old:
        raise ConfigError(
            f"{named[0]}: the run in {folder} was started with {old} steps, not {new}; a run that is resumed can only "
            f"become longer; give more than {old}, or begin another with run_name=NAME"
        )
    return frozenset(LENGTH)


def _is_free(key: str, run: RunConfig) -> bool:
    """Whether `key` may change on resume; the micro-batch may not where it decides what is drawn for a sample."""
    if key == "train.micro_batch" and depends_on_split(run):
        return False
    return key in keys_with(RunConfig, FREE)


def _frozen(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in leaves_of(plain(config)).items() if not _is_free(key, config)}
