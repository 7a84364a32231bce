"""`fork=RUN@STEP`: a new run from a checkpoint of another, with its settings but for those that are given."""

from __future__ import annotations

import os
import re
from pathlib import Path

from est_cli.common.errors import ConfigError
from est_cli.common.nearby import did_you_mean
from est_cli.config import RunConfig
from est_cli.config.length import max_steps
from est_cli.config.resolve import resolve
from est_cli.config.run import tokenizer_of
from est_cli.config.schema import leaves_of, plain, typed
from est_cli.config.setting import AUTO, FREE, SETTLED, Given, keys_with, left_open
from est_cli.config.stored import stored_config
from est_cli.storage.run_dir import RunDir
from est_cli.storage.store import step_folders
from est_cli.training.extend import kept_behind, set_length

NEWEST = 5
"""Runs that are named where the one that was asked for is not there."""
OWN = ("run_name", "sweep", "share_prefix", "resume", "fork")
"""Whose values are the new run's, given or not; so are those of paths.*."""
_FIXED = re.compile(r"model\..*|sampling\..*|seed|optim\.name|train\.(seq_len|tokens_per_step)")
"""What the steps up to the checkpoint have been counted and drawn by, and what its tensors are of."""


def may_change(key: str) -> bool:
    """Whether a fork may have another value of this key than the run that it begins from."""
    return key not in OWN and not _FIXED.fullmatch(key)


def run_named(name: str, outputs: Path, key: str) -> Path:
    """The folder of a run, or of one in `outputs` that has this name. Raises ConfigError where there is none."""
    named = [outputs / name] if name == os.path.basename(name) else []
    for folder in (Path(name), *named):
        if os.path.isfile(RunDir(folder).config):  # unlike Path's, it takes any string for a path
            return folder
    also = f", and there is none of this name in {outputs}" if named else ""
    near = "" if os.path.isdir(name) else did_you_mean(name)
    origin, at, step = name.rpartition("@")
    if at and step.isdecimal() and os.path.isfile(RunDir(Path(origin)).config):
        near = f"; fork={name} begins a new run from that checkpoint"
    near = near or _newest_in(outputs)
    raise ConfigError(f"{key}: {name} is not the folder of a run (it has no config.yaml){also}{near}")


def _newest_in(outputs: Path) -> str:
    """`; the newest runs in OUTPUTS: A, B`, to choose from; empty where there are none."""
    try:
        dated = [(os.path.getmtime(file), file.parent.name) for file in outputs.glob("*/config.yaml")]
    except OSError:
        return ""
    names = ", ".join(name for _, name in sorted(dated, reverse=True)[:NEWEST])
    return f"; the newest runs in {outputs}: {names}" if names else ""


def origin_of(config: RunConfig) -> tuple[Path, int]:
    """The run and the step that `fork` names. Raises ConfigError where there is no such checkpoint."""
    assert config.fork is not None
    name, at, step = config.fork.rpartition("@")
    folder = run_named(name if at else step, config.paths.outputs_folder, "fork")
    there = [number for number, _ in step_folders(RunDir(folder).checkpoints)]
    if not at or not re.fullmatch(r"[0-9]{1,12}", step) or int(step) not in there:
        steps = ", ".join(map(str, there)) or "none"
        raise ConfigError(
            f"fork: {config.fork} names no checkpoint; write {folder}@STEP, with one of its steps: {steps}"
        )
    return folder, int(step)


def forked_config(config: RunConfig, given: Given, begun: bool = False) -> RunConfig:
    """What a run that begins from `config.fork` has: the other run's settings, and over them those of `given`.

    One that has `begun`, with a checkpoint of its own, needs the other run no more: `config`, where that is gone.

    Raises ConfigError for what the steps before the checkpoint have decided, and for what check() finds;
    CheckpointError where the other run's configuration cannot be read.
    """
    if config.resume not in (None, AUTO):
        raise ConfigError("fork: begins a new run; leave out resume, or let it be auto for a run_name that was begun")
    try:
        folder, step = origin_of(config)
    except ConfigError:
        if begun:
            return config
        raise
    stored = stored_config(folder)
    before, wanted, tree = leaves_of(plain(stored)), leaves_of(plain(config)), plain(stored)
    own = {key for key in wanted if key in OWN or key.startswith("paths.")}
    for key in sorted((given & wanted.keys()) | own):
        if _FIXED.fullmatch(key) and key in keys_with(RunConfig, SETTLED) and left_open(key, wanted[key]):
            continue  # it was settled when that run began
        if _FIXED.fullmatch(key) and repr(before[key]) != repr(wanted[key]):
            raise ConfigError(
                f"{key}: the first {step} steps of the run in {folder} were trained with {before[key]!r}, not "
                f"{wanted[key]!r}; a run that begins from them keeps that"
            )
        group, _, name = key.rpartition(".")
        (tree[group] if group else tree)[name] = wanted[key]
    set_length(tree, wanted, given)
    found = typed(tree, RunConfig)
    _check_tokenizer(found, stored, folder, step)
    if max_steps(found) <= step:
        raise ConfigError(
            f"fork: {config.fork} has done {step} steps, and {max_steps(found)} are to be done in all; give more, "
            f"train.max_steps={2 * step} for as many again"
        )
    return kept_behind(resolve(stored), found, step)


def _check_tokenizer(config: RunConfig, stored: RunConfig, folder: Path, step: int) -> None:
    if other_text(config, stored) and tokenizer_of(config) == "bpe":
        own = RunDir(folder).checkpoints / f"step-{step:06d}"
        raise ConfigError(f"tokenizer: bpe would be trained on the other text; take that of the run, tokenizer={own}")


def other_text(config: RunConfig, stored: RunConfig) -> bool:
    """Whether a run reads another text than the one that it begins from."""
    free = keys_with(RunConfig, FREE)
    one, other = leaves_of(plain(config)), leaves_of(plain(stored))
    return any(repr(one[key]) != repr(other[key]) for key in one if key.startswith("dataset.") and key not in free)
