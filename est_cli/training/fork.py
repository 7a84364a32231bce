"""Runs that begin with another one's checkpoint: the one that `fork` names, or in a sweep the latest that both share.

Runs of a sweep agree up to a stage boundary, and the later one begins from there. What it trains is what it would train
alone, bit for bit, because all that a step depends on is in the checkpoint or a function of the seed and the step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from est_cli.common.errors import CheckpointError
from est_cli.config import OnSpike, RunConfig
from est_cli.config.resolve import resolve
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import BRANCH, keys_with
from est_cli.config.stored import stored_config
from est_cli.est.schedule import common_steps
from est_cli.storage import disk, strict_json
from est_cli.storage.content import STATE
from est_cli.storage.run_dir import RunDir, write_json
from est_cli.storage.store import is_intact, step_folders, verify_folder, write_folder
from est_cli.tracking import new_run_id
from est_cli.tracking.metrics import lines_of
from est_cli.tracking.names import NAMES
from est_cli.tracking.records import Record
from est_cli.training.branch import origin_of, other_text
from est_cli.training.optim import common_lr_steps
from est_cli.training.start import runs_folder

FORKED = "forked_from.json"
"""In a run's folder: the run and the step that it began from."""


@dataclass(frozen=True)
class Fork:
    """A checkpoint of another run."""

    run: RunDir
    step: int
    checkpoint: Path


def begin_from_sibling(run_dir: RunDir, config: RunConfig, warn: Callable[[str], None]) -> Fork | None:
    """Give the new run `run_dir`, locked and without a checkpoint, the latest one that it shares with a run beside it.

    None where there is none. Raises StorageError.
    """
    lasting = resolve(config).lasting
    for fork in sorted(_forks(run_dir, config), key=lambda fork: fork.step, reverse=True):
        kept = [Fork(fork.run, step, path) for step, path in step_folders(fork.run.checkpoints) if step in lasting]
        _copy_records(fork, run_dir, config)  # first: a checkpoint whose records are missing would go on without them
        try:
            for older in kept:
                if older.step < fork.step:
                    _copy_checkpoint(older, run_dir)
            _copy_checkpoint(fork, run_dir)
        except CheckpointError as error:  # damaged, or removed by its owner in the meantime
            warn(f"{error}; the run does not begin from there")
            continue
        write_json(run_dir.root / FORKED, {"run": str(fork.run.root), "step": fork.step})
        return fork
    return None


def begin_from_origin(run_dir: RunDir, config: RunConfig) -> Fork:
    """Give the new run `run_dir`, locked and without a checkpoint, the one that `config.fork` names, and its records.

    Raises CheckpointError, ConfigError, StorageError.
    """
    folder, step = origin_of(config)
    fork = Fork(RunDir(folder), step, RunDir(folder).checkpoints / f"step-{step:06d}")
    _copy_records(fork, run_dir, config)
    write_json(run_dir.root / FORKED, {"run": str(folder), "step": step})
    # Of another text the losses are others: they are nothing to judge its first steps by.
    _copy_checkpoint(
        fork, run_dir, {"data_hash": "", "recent": []} if other_text(config, stored_config(folder)) else {}
    )
    return fork


def verify_origin(config: RunConfig) -> None:
    """Raise CheckpointError where the checkpoint that `config.fork` names is damaged."""
    folder, step = origin_of(config)
    verify_folder(RunDir(folder).checkpoints / f"step-{step:06d}")


def _forks(run_dir: RunDir, config: RunConfig) -> Iterator[Fork]:
    own, run = _must_agree(config), resolve(config)
    for root in sorted(runs_folder(config).iterdir()):
        sibling = RunDir(root)
        if root.name == run_dir.root.name or root.is_symlink() or not sibling.config.is_file():
            continue
        try:
            stored = stored_config(root)
        except CheckpointError:  # of another version, or damaged
            continue
        if _must_agree(stored) == own:
            other = resolve(stored)
            lr = common_lr_steps(run.batch, other.batch, config.optim)
            common = min(common_steps(run.scheduler, other.scheduler), lr)
            shared = ((step, path) for step, path in step_folders(sibling.checkpoints) if step <= common)
            # A run that goes back from spikes would not find the place that it goes back to when it trains alone.
            any_step = config.train.on_spike is not OnSpike.rewind
            yield from (Fork(sibling, step, path) for step, path in shared if any_step or run.saves_at(step))


def _must_agree(config: RunConfig) -> dict[str, str]:
    """With types: as a boundary 1 is a step and 1.0 the end."""
    leaves, may_differ = leaves_of(plain(config)), keys_with(RunConfig, BRANCH)
    return {key: repr(value) for key, value in leaves.items() if key not in may_differ}


def _copy_checkpoint(fork: Fork, run_dir: RunDir, changes: Mapping[str, Any] = MappingProxyType({})) -> None:
    """All but what belongs to the other run alone: its W&B run, its micro-batches of later stages, its records.

    `changes`: of the state beside them.
    """
    manifest = verify_folder(fork.checkpoint)
    state: dict[str, Any] = strict_json.read_file(fork.checkpoint / STATE)
    state |= {"wandb_run_id": new_run_id(), "tracker_names": NAMES, "micro_batches": {}, "records": {}, **changes}

    def fill(folder: Path) -> None:
        for name in manifest["files"]:
            if name != STATE:
                shutil.copyfile(fork.checkpoint / name, folder / name, follow_symlinks=False)
        disk.write_file(folder / STATE, strict_json.write_object(state))

    if not is_intact(run_dir.checkpoints / fork.checkpoint.name):
        write_folder(run_dir.checkpoints / fork.checkpoint.name, fill, manifest["meta"])


def _copy_records(fork: Fork, run_dir: RunDir, config: RunConfig) -> None:
    """The lines of the common steps; a validation that only the other run makes, where its stage ends, is left out."""
    every, scheduler = config.train.eval_every, resolve(config).scheduler
    own = every > 0 and (fork.step % every == 0 or fork.step in scheduler.milestones())

    def is_common(record: Record) -> bool:
        validated = record["step"] == fork.step and "val_loss" in record
        return bool(record["step"] <= fork.step) and (own or not validated)

    files = [(fork.run.metrics, run_dir.metrics)]
    files += [(fork.run.layers, run_dir.layers)] if fork.run.layers.exists() else []
    for theirs, ours in files:
        disk.replace_file(ours, b"".join(line + b"\n" for line, record in lines_of(theirs) if is_common(record)))
