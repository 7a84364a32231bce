"""What a training run keeps: the model as a `from_pretrained` folder, the optimizer by parameter name, a state in JSON.

No pickle and no random-number state: whatever is random is a function of the seed and the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from est_cli.common.errors import CheckpointError
from est_cli.storage import disk, store, strict_json, tensors
from est_cli.storage.manifest import Manifest, blaming
from est_cli.storage.shares import MOMENTS_SHARES, WEIGHTS_SHARES, opened_shares, share_names
from est_cli.storage.tensors import Snapshot, Stateful
from est_cli.storage.versions import differences, git_commit, versions

WEIGHTS = "model.safetensors"
OPTIMIZER = store.OPTIMIZER
STATE = "state.json"
_LOG = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    step: int,
    snapshot: Snapshot,
    tokenizer: PreTrainedTokenizerBase | None,
    state: dict[str, Any],
    meta: dict[str, Any],
) -> Path:
    """Write folder/step-NNNNNN and return it. One thread of one process calls it, the process holding the run's lock.

    Checkpoints of later steps are set aside first: the run has gone back behind them. An intact one of this step stays
    as it is, since moving it away could leave none. NumericsError, StorageError, CheckpointError: nothing was written.
    """
    target = place_for(folder, step)
    if target is None:
        return folder / f"step-{step:06d}"
    check_snapshot(snapshot)

    def fill(tmp: Path) -> None:
        save_file(snapshot.weights, tmp / WEIGHTS, metadata={"format": "pt"})
        save_file(snapshot.moments, tmp / OPTIMIZER)
        write_beside(tmp, snapshot, tokenizer, state)

    store.write_folder(target, fill, {**meta, **environment()})
    return target


def place_for(folder: Path, step: int) -> Path | None:
    """Where the checkpoint of `step` is to be written; None: an intact one is there. Those in its way are set aside."""
    target = folder / f"step-{step:06d}"
    store.set_aside_later(folder, step)
    if store.is_intact(target):
        return None
    store.set_aside(target)
    return target


def write_beside(
    folder: Path, snapshot: Snapshot, tokenizer: PreTrainedTokenizerBase | None, state: dict[str, Any]
) -> None:
    """All of a checkpoint but weights and moments."""
    _write_configs(folder, snapshot, tokenizer)
    disk.write_file(folder / STATE, strict_json.write_object(state))


def save_model(
    target: Path, snapshot: Snapshot, tokenizer: PreTrainedTokenizerBase | None, meta: dict[str, Any]
) -> None:
    """Write the model and tokenizer as the folder `target`; one that is already there is set aside first."""
    check_snapshot(snapshot)
    store.set_aside(target)

    def fill(tmp: Path) -> None:
        save_file(snapshot.weights, tmp / WEIGHTS, metadata={"format": "pt"})
        _write_configs(tmp, snapshot, tokenizer)

    store.write_folder(target, fill, {**meta, **environment()})


def load_checkpoint(
    path: Path,
    model: PreTrainedModel,
    optimizer: Stateful,
    warn: Callable[[str], None] = _LOG.warning,
    verified: Manifest | None = None,
) -> dict[str, Any]:
    """Restore `model` and `optimizer` in place from a checkpoint and return its state.

    `verified`: its manifest where that was just verified, else it is verified here. CheckpointError names the file and
    what is wrong with it; then neither was changed. One warning if the libraries or the number of threads are not those
    it was saved with: the last bits may then differ.
    """
    manifest = store.verify_folder(path) if verified is None else verified
    if STATE not in manifest["files"]:
        raise CheckpointError(f"{path / STATE}: missing, so this is no training checkpoint to continue from")
    with blaming(path / STATE):
        state = strict_json.read_file(path / STATE)
    names = manifest["files"]
    with (
        _opened(path, names, WEIGHTS, WEIGHTS_SHARES) as (weights, named),
        _opened(path, names, OPTIMIZER, MOMENTS_SHARES) as (moments, also),
    ):
        with blaming(named):
            tensors.check_weights(weights, model)
        with blaming(also):
            tensors.check_optimizer(moments, model, optimizer)
        tensors.load_weights(weights, model)
        tensors.load_optimizer(moments, model, optimizer)
    _compare_environment(path, manifest["meta"], warn)
    return state


def check_snapshot(snapshot: Snapshot) -> None:
    """Wait until it is there. Raises NumericsError where it is not finite."""
    snapshot.wait()
    tensors.check_finite({**snapshot.weights, **snapshot.moments})


def _write_configs(folder: Path, snapshot: Snapshot, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """With the weights these are the files that `save_pretrained` of model and tokenizer would write."""
    snapshot.config.save_pretrained(folder)
    if snapshot.generation_config is not None:
        snapshot.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextmanager
def _opened(folder: Path, names: Collection[str], name: str, kind: str) -> Iterator[tuple[Any, Path]]:
    """The file `name`, or the shares of `kind` in its place, and what to blame for them."""
    with blaming(folder):
        shares = share_names(names, kind)
    if shares:
        with opened_shares(folder, kind) as joined:
            yield joined, folder
        return
    path = folder / name
    if name not in names:
        raise CheckpointError(f"{path}: missing, so this is no training checkpoint to continue from")
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{path}: not a safetensors file ({err})") from err
    with file as opened:
        yield opened, path


def environment() -> dict[str, Any]:
    """What a checkpoint was made with: its last bits may depend on it."""
    return {"git_commit": git_commit(), "versions": versions(), "threads": torch.get_num_threads()}


def _compare_environment(path: Path, meta: dict[str, Any], warn: Callable[[str], None]) -> None:
    saved = meta.get("versions")
    now = {**versions(), "threads": torch.get_num_threads()}
    then = {"est-cli": now.get("est-cli")}  # the first checkpoints do not say it
    then |= {**(saved if isinstance(saved, dict) else {}), "threads": meta.get("threads")}
    changed = differences(then, now)
    if changed:
        warn(f"{path}: {changed}; continuing may differ in the last bits")
