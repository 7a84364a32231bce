"""What a training run keeps: the model as a `from_pretrained` folder, the optimizer by parameter name, a state in JSON.

No pickle and no random-number state: whatever is random is a function of the seed and the step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
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
    target = folder / f"step-{step:06d}"
    store.set_aside_later(folder, step)
    if store.is_intact(target):
        return target
    store.set_aside(target)
    _check(snapshot)

    def fill(tmp: Path) -> None:
        _write_model(tmp, snapshot, tokenizer)
        save_file(snapshot.moments, tmp / OPTIMIZER)
        disk.write_file(tmp / STATE, strict_json.write_object(state))

    store.write_folder(target, fill, {**meta, **_environment()})
    return target


def save_model(
    target: Path, snapshot: Snapshot, tokenizer: PreTrainedTokenizerBase | None, meta: dict[str, Any]
) -> None:
    """Write the model and tokenizer as the folder `target`; one that is already there is set aside first."""
    _check(snapshot)
    store.set_aside(target)
    store.write_folder(target, lambda tmp: _write_model(tmp, snapshot, tokenizer), {**meta, **_environment()})


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
    for name in (WEIGHTS, OPTIMIZER, STATE):
        if name not in manifest["files"]:
            raise CheckpointError(f"{path / name}: missing, so this is no training checkpoint to continue from")
    with blaming(path / STATE):
        state = strict_json.read_file(path / STATE)
    with _opened(path / WEIGHTS) as weights, _opened(path / OPTIMIZER) as moments:
        with blaming(path / WEIGHTS):
            tensors.check_weights(weights, model)
        with blaming(path / OPTIMIZER):
            tensors.check_optimizer(moments, model, optimizer)
        tensors.load_weights(weights, model)
        tensors.load_optimizer(moments, model, optimizer)
    _compare_environment(path, manifest["meta"], warn)
    return state


def _check(snapshot: Snapshot) -> None:
    snapshot.wait()
    tensors.check_finite({**snapshot.weights, **snapshot.moments})


def _write_model(folder: Path, snapshot: Snapshot, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """The files that `save_pretrained` of model and tokenizer would write."""
    save_file(snapshot.weights, folder / WEIGHTS, metadata={"format": "pt"})
    snapshot.config.save_pretrained(folder)
    if snapshot.generation_config is not None:
        snapshot.generation_config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as err:
        raise CheckpointError(f"{path}: not a safetensors file ({err})") from err
    with file as opened:
        yield opened


def _environment() -> dict[str, Any]:
    return {"git_commit": git_commit(), "versions": versions(), "threads": torch.get_num_threads()}


def _compare_environment(path: Path, meta: dict[str, Any], warn: Callable[[str], None]) -> None:
    saved = meta.get("versions")
    now = {**versions(), "threads": torch.get_num_threads()}
    then = {"est-cli": now.get("est-cli")}  # the first checkpoints do not say it
    then |= {**(saved if isinstance(saved, dict) else {}), "threads": meta.get("threads")}
    changed = differences(then, now)
    if changed:
        warn(f"{path}: {changed}; continuing may differ in the last bits")
