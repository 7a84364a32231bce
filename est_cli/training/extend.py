"""A run made longer: what it had planned for its former length, from the step on in which the two lengths part.

A longer run is the one that had been longer from the start, as far as their schedules agree. So what lies behind stays
where it was: fractions of the former length become the steps that they were. Standard library and settings only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import LrSchedule, OptimConfig, RunConfig, StageConfig
from est_cli.config.length import LENGTHS, max_steps
from est_cli.config.resolve import Resolved, check, resolve
from est_cli.config.schema import to_yaml
from est_cli.config.stored import stored_config
from est_cli.est.schedule import boundary_step, common_steps
from est_cli.storage import disk
from est_cli.storage.run_dir import RunDir
from est_cli.storage.store import remove_later, step_folders, verify_folder

LENGTH = tuple(f"train.{key}" for key in LENGTHS)
"""The keys that make a run longer."""
BOUNDARIES = ("t1", "t2", "boundaries")
FALLING = (LrSchedule.cosine, LrSchedule.linear)
"""Under these every step's learning rate depends on how long the run is."""


def is_longer(folder: Path, config: RunConfig) -> bool:
    """Whether `config` makes the run in `folder` longer than it was planned so far."""
    return max_steps(config) > max_steps(stored_config(folder))


def how_to_lengthen(folder: Path, config: RunConfig) -> str:
    """How to have more of a finished run: in place, or in another run where the learning rate has come to its end."""
    steps = max_steps(config)
    if config.optim.schedule in FALLING:
        return f"fork={folder}@{steps} run_name=NAME train.max_steps={2 * steps} begins a longer one from it"
    return f"resume={folder} train.max_steps={2 * steps} makes it longer"


def set_length(tree: dict[str, Any], wanted: Mapping[str, Any], given: Collection[str]) -> None:
    """Put a length that is given into `tree`: a number of steps takes the place of one of tokens, and the reverse."""
    if any(key in given for key in LENGTH):
        for key in LENGTH:
            tree["train"][key.rpartition(".")[2]] = wanted[key] if key in given else None


def longer(stored: RunConfig, wanted: RunConfig, folder: Path) -> RunConfig:
    """`wanted`, which has more steps than the run in `folder` was started with, with what lies behind kept in place.

    Raises ConfigError where the run cannot go on as if it had been longer from the start, and for what check() finds.
    """
    old = resolve(stored)
    if stored.optim.schedule in FALLING:
        raise ConfigError(
            f"train.max_steps: the learning rate of optim.schedule={stored.optim.schedule.value} falls from the "
            f"warm-up on towards the last of {old.max_steps} steps, so the run in {folder} cannot become longer; "
            f"fork={folder}@STEP train.max_steps={max_steps(wanted)} begins another from a checkpoint of it"
        )
    return kept_behind(old, wanted, going_on_from(old, folder, max_steps(wanted)))


def going_on_from(old: Resolved, folder: Path, steps: int) -> int:
    """The step that a run of this configuration goes on from when it becomes `steps` long; 0 without a checkpoint."""
    there = [step for step, _ in step_folders(RunDir(folder).checkpoints)]
    newest, decay = max(there, default=0), old.decay_begin
    if decay is None or newest <= decay:
        return newest
    if decay not in there:
        raise ConfigError(
            f"train.max_steps: the run in {folder} is past step {decay}, where its decay begins, and keeps no "
            f"checkpoint of it to go on from; fork={folder}@{newest} train.max_steps={steps} begins another run from "
            "its newest"
        )
    return decay


def kept_behind(old: Resolved, wanted: RunConfig, begin: int) -> RunConfig:
    """`wanted` with the first `begin` steps as `old` has them.

    Boundaries that lie behind become steps; all of them do where a stage that is under way depends on the others.
    Raises ConfigError where no boundaries can do it.
    """
    if not begin:
        return wanted
    tried = [replace(wanted, stage=_stage(old, wanted.stage, passed), optim=_optim(old, wanted.optim))
             for passed in (begin, old.max_steps)]  # fmt: skip
    for config in tried:
        if common_steps(old.scheduler, check(config).scheduler) >= begin:
            return config
    raise ConfigError(f"scheduler: has {begin} steps behind it that a run of {max_steps(wanted)} steps would not have")


def _optim(old: Resolved, optim: OptimConfig) -> OptimConfig:
    same = optim.warmup_tokens is None and repr(optim.warmup) == repr(old.config.optim.warmup)
    return replace(optim, warmup=boundary_step(optim.warmup, old.max_steps)) if same else optim


def _stage(old: Resolved, stage: StageConfig, passed: int) -> StageConfig:
    """Its boundaries up to step `passed` as steps; those that `old` does not have are left alone."""
    before: dict[str, Any] = vars(old.config.stage)
    changes = {
        key: _as_steps(getattr(stage, key), old.max_steps, passed)
        for key in BOUNDARIES
        if repr(getattr(stage, key)) == repr(before[key])
    }
    if old.config.scheduler.name == "pld" and stage.gamma is None:
        changes["gamma"] = old.scheduler.stages[-1].gamma
    return replace(stage, **changes)


def _as_steps(value: Any, length: int, passed: int) -> Any:
    if isinstance(value, list):
        return [_as_steps(one, length, passed) for one in value]
    if not isinstance(value, float) or boundary_step(value, length) > passed:
        return value
    return boundary_step(value, length)


def set_back(run_dir: RunDir, config: RunConfig) -> None:
    """Make the run in `run_dir`, locked, the longer one of `config`, which longer() gave.

    Until config.yaml is replaced, which is done last, it is still the shorter one: killed before, it ends again as it
    had. What it has ended with is kept in ended-STEP/. Raises CheckpointError, ConfigError, StorageError.
    """
    old = resolve(stored_config(run_dir.root))
    begin = going_on_from(old, run_dir.root, max_steps(config))
    if begin:
        _require_intact(run_dir, begin, config)
    for path in _ended(run_dir):
        disk.move_into(run_dir.root / f"ended-{old.max_steps:06d}", path)
    remove_later(run_dir.checkpoints, begin)
    disk.replace_file(run_dir.config, to_yaml(config).encode())


def _require_intact(run_dir: RunDir, begin: int, config: RunConfig) -> None:
    place = run_dir.checkpoints / f"step-{begin:06d}"
    try:
        verify_folder(place)
    except CheckpointError as error:
        another = f"fork={run_dir.root}@STEP train.max_steps={max_steps(config)}"
        raise CheckpointError(f"{error}; the run cannot go on from there; {another} begins another") from error


def _ended(run_dir: RunDir) -> Iterator[Path]:
    """What says that the run is done comes first: without it nobody takes the rest for whole."""
    yield from (path for path in (run_dir.summary, run_dir.model, run_dir.plots) if path.exists())
