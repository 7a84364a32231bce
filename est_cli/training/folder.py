"""A run's folder on the disk: rank 0 makes it, owns it and cleans it; all processes read the checkpoint in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from transformers import PreTrainedModel

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import RunConfig
from est_cli.config.schema import to_yaml
from est_cli.data import Corpus
from est_cli.distributed import Group
from est_cli.storage import disk
from est_cli.storage.content import load_checkpoint
from est_cli.storage.run_dir import RunDir, create_run_dir, default_run_name, lock
from est_cli.storage.store import clean_leftovers, leads_out, newest_valid, remove_later, set_aside_later, step_folders
from est_cli.training.extend import is_longer, set_back
from est_cli.training.fork import FORKED, begin_from_origin, begin_from_sibling, verify_origin
from est_cli.training.optim import Optimizer
from est_cli.training.run import RunState
from est_cli.training.start import Start, runs_folder

log = logging.getLogger(__name__)

SHOWN_WITHIN_S = 60.0
"""A network file system may believe for so long that what it has looked for in vain is still not there."""


@contextmanager
def owned_folder(start: Start, group: Group) -> Iterator[RunDir]:
    """The folder of the run that is started or continued, locked by rank 0 until the end of the block."""
    config = start.config
    if not group.rank.first:
        run_dir = RunDir(Path(group.share(None)))
        if not _shown(run_dir.config):
            raise ConfigError(f"{run_dir.root}: is not here for rank {group.rank.rank}; all must see one file system")
        config.run_name = run_dir.root.name
        yield run_dir
        return
    if start.folder is None and config.fork is not None:
        verify_origin(config)  # before there is a folder
    run_dir = _run_dir(start)
    with lock(run_dir):
        clean_leftovers(run_dir.root)
        if start.folder is None:
            create_run_dir(run_dir.root.parent, run_dir.root.name)  # again: another may have used it before we owned it
            disk.replace_file(run_dir.config, to_yaml(config).encode())
            _share(run_dir, config)
        elif is_longer(start.folder, config):
            set_back(run_dir, config)
        _refuse_others_checkpoints(run_dir)
        if config.fork is not None and not step_folders(run_dir.checkpoints):  # also where that was killed
            begun = begin_from_origin(run_dir, config)
            log.info("begins from %s, after step %d", begun.run.root, begun.step)
        for place in (run_dir.checkpoints, run_dir.plots):
            clean_leftovers(place, within=run_dir.root)
        group.share(str(run_dir.root))
        yield run_dir


def restored_state(
    run_dir: RunDir,
    max_steps: int,
    model: PreTrainedModel,
    optimizer: Optimizer,
    corpus: Corpus,
    group: Group,
    until: int | None = None,
) -> RunState | None:
    """Load the newest intact checkpoint into model and optimizer; None if the run has none yet.

    `until`: of this step or an earlier one; later ones are deleted. Where it is None they are damaged, and set aside.

    CheckpointError where it is not one of this run of `max_steps` steps, its text and its tokenizer.
    """
    found = newest_valid(run_dir.checkpoints, log.warning, until) if group.rank.first else None
    shared = group.share(None if found is None else (str(found[0]), found[1]))
    if shared is None:
        return None
    path, verified = Path(shared[0]), shared[1]
    warn = log.warning if group.rank.first else log.debug
    state = RunState.from_json(load_checkpoint(path, model, optimizer, warn, verified=verified), str(path))
    if path.name != f"step-{state.step:06d}" or state.step > max_steps:
        raise CheckpointError(f"{path}: its state is of step {state.step}; the run has {max_steps}")
    if not state.data_hash and (run_dir.root / FORKED).exists():  # it goes on with another text
        state.data_hash = corpus.data_hash
    for what, saved, now in (
        ("dataset", state.data_hash, corpus.data_hash),
        ("tokenizer", state.tokenizer_hash, corpus.tokenizer_hash),
    ):
        if saved != now:
            raise CheckpointError(f"{path}: was made with another {what} ({saved[:12]}, now {now[:12]}); restore that")
    if group.rank.first:
        leave = set_aside_later if until is None else remove_later
        leave(run_dir.checkpoints, state.step)  # or retain() would count a damaged one among the newest
    return state


def _refuse_others_checkpoints(run_dir: RunDir) -> None:
    """CheckpointError where `checkpoints` is a link to those of another run, which would be changed and deleted."""
    place = run_dir.checkpoints
    if leads_out(place, run_dir.root) and RunDir(place.resolve().parent).config.exists():
        raise CheckpointError(f"{place}: a link to the checkpoints of another run, {place.resolve().parent}; remove it")


def _share(run_dir: RunDir, config: RunConfig) -> None:
    fork = begin_from_sibling(run_dir, config, log.warning) if config.share_prefix else None
    if fork is not None:
        log.info("begins from %s, which is the same up to step %d", fork.run.root, fork.step)


def _shown(path: Path) -> bool:
    """Whether `path`, which another machine has written, is there for this one."""
    deadline = time.monotonic() + SHOWN_WITHIN_S
    while not path.exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _run_dir(start: Start) -> RunDir:
    if start.folder is not None:
        return RunDir(start.folder)
    config, runs = start.config, runs_folder(start.config)
    if config.run_name is None:
        name = default_run_name(config.model.name, config.scheduler.name, datetime.now())
        taken = sum(1 for _ in runs.glob(f"{name}*"))  # runs started in the same second
        config.run_name = f"{name}-{taken + 1}" if taken else name
    return create_run_dir(runs, config.run_name)
