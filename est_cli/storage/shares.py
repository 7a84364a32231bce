"""Checkpoints in shares: each process writes the rows that it holds, and any number of processes reads them.

The files are those of torch.distributed.checkpoint's HuggingFaceStorageWriter: safetensors that say where the rows of
each tensor begin, so that its reader opens them, too. They are written here, because that writer makes a second copy of
a share in memory, and wraps what the disk says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from est_cli.common.errors import CheckpointError
from est_cli.storage import disk, manifest, strict_json
from est_cli.storage.manifest import Files, blaming
from est_cli.storage.tensors import (
    Buffers,
    Snapshot,
    Stateful,
    first_row,
    model_tensors,
    optimizer_tensors,
    take_snapshot,
)

WEIGHTS_SHARES, MOMENTS_SHARES = "weights", "optim"
"""Kinds of files of shares, with which their names begin."""
_NAME = re.compile(rf"({WEIGHTS_SHARES}|{MOMENTS_SHARES})-([0-9]{{5,}})-of-([0-9]{{5,}})\.safetensors")
_BEGINNINGS, _VERSION = "DCP_SHARDING_INFO", {"DCP_VERSION": "1.0", "format": "pt"}
_BEGINNINGS_BYTES = 1 << 26


@dataclass(frozen=True)
class Shares:
    """What one process is to write of a model that is spread over several."""

    number: int | None
    """From 1; None: another process holds, and writes, the same."""
    count: int
    """Processes that write."""
    snapshot: Snapshot
    """Its tensors are the rows that this process writes."""
    begins: dict[str, list[int]]
    """Of each tensor: where these rows begin in the whole, by dimension."""


def take_shares(model: PreTrainedModel, optimizer: Stateful, buffers: Buffers | None = None) -> Shares:
    """The present rows of this process; nothing is sent. `buffers` as in take_snapshot().

    What is not spread, such as counts of steps, is the first process's to write.
    """
    tensors = {**model_tensors(model), **optimizer_tensors(model, optimizer)}
    mesh = next(tensor for tensor in tensors.values() if isinstance(tensor, DTensor)).device_mesh
    *replica, place = mesh.get_coordinate() or ()
    writes = not any(replica)

    def part(tensor: Tensor) -> Tensor | None:
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor if place == 0 else None
        return own if writes and own is not None and (own.numel() or not own.dim()) else None

    begins = {name: [first_row(tensor), *[0] * tensor.dim()][: tensor.dim()] for name, tensor in tensors.items()}
    snapshot = take_snapshot(model, optimizer, buffers, part=part)
    return Shares(place + 1 if writes else None, mesh.shape[-1], snapshot, begins)


def write_shares(folder: Path, shares: Shares) -> Files:
    """Write this process's files into `folder` and bring them to the disk. Raises StorageError."""
    if shares.number is None:
        return {}
    files = {}
    kinds = ((WEIGHTS_SHARES, shares.snapshot.weights), (MOMENTS_SHARES, shares.snapshot.moments))
    for kind, tensors in kinds:
        path = folder / f"{kind}-{shares.number:05d}-of-{shares.count:05d}.safetensors"
        begins = {name: {"saved_offsets": shares.begins[name]} for name in tensors}
        with disk.storage_errors(path):
            disk.fault_point(f"write {path.name}")
            save_file(tensors, path, metadata={_BEGINNINGS: json.dumps(begins), **_VERSION})
            files[path.name] = manifest.seal_file(path, mode=folder.stat().st_mode & 0o666)
    return files


def share_names(names: Iterable[str], kind: str) -> list[str]:
    """Those of `names` that hold shares of `kind`. ValueError where some are missing."""
    matches = [match for name in names if (match := _NAME.fullmatch(name)) and match[1] == kind]
    numbers, counts = sorted(int(match[2]) for match in matches), {int(match[3]) for match in matches}
    if matches and (numbers != [*range(1, len(matches) + 1)] or counts != {len(matches)}):  # any count may be written
        raise ValueError(f"holds {len(matches)} files {kind}-NUMBER-of-COUNT.safetensors, which are not all of them")
    return sorted(match.string for match in matches)


@contextmanager
def opened_shares(folder: Path, kind: str) -> Iterator[Joined]:
    """The shares of `kind` in `folder` as one file. Raises CheckpointError."""
    with ExitStack() as stack:
        with blaming(folder):
            names = share_names((path.name for path in folder.iterdir()), kind)
            joined = Joined([stack.enter_context(_opened(folder / name)) for name in names])
        yield joined


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error


def joined_weights(folder: Path) -> dict[str, Tensor] | None:
    """The whole weights of a checkpoint in shares, by name; None where `folder` is none. Raises CheckpointError."""
    with blaming(folder):
        if not share_names((path.name for path in folder.iterdir()), WEIGHTS_SHARES):
            return None
    with opened_shares(folder, WEIGHTS_SHARES) as weights, blaming(folder):
        return {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118  (not a dict)


class Joined:
    """Open files of shares as one: what `safetensors.safe_open` gives of a single file, as far as it is asked for.

    ValueError where their rows do not join.
    """

    def __init__(self, files: Sequence[Any]) -> None:
        self._rows: dict[str, Rows] = {}
        parts: dict[str, list[tuple[list[int], Any]]] = {}
        for file in files:
            for name, begin in _beginnings(file).items():
                parts.setdefault(name, []).append((begin, file.get_slice(name)))
        for name, found in parts.items():
            self._rows[name] = Rows(name, sorted(found, key=lambda part: part[0]))

    def keys(self) -> list[str]:
        """The names of its tensors."""
        return list(self._rows)

    def get_slice(self, name: str) -> Rows:
        """What can be asked for some rows."""
        return self._rows[name]

    def get_tensor(self, name: str) -> Tensor:
        """The whole."""
        return self._rows[name][:]


class Rows:
    """A tensor in pieces, which are read as they are asked for."""

    def __init__(self, name: str, parts: Sequence[tuple[list[int], Any]]) -> None:
        self._pieces, self._begins = [piece for _, piece in parts], [0]
        first = self._pieces[0]
        shape, dtype = first.get_shape(), first.get_dtype()
        for begin, piece in parts:
            own = piece.get_shape()
            fits = own[1:] == shape[1:] and piece.get_dtype() == dtype and len(own) == len(shape)
            if not fits or begin != [self._begins[-1], *[0] * len(shape)][: len(shape)]:
                raise ValueError(f"has {name} in pieces that do not join")
            self._begins.append(self._begins[-1] + (own[0] if own else 1))
        self._shape, self._dtype = [*self._begins[-1:], *shape[1:]][: len(shape)], dtype
        if not shape and len(parts) > 1:
            raise ValueError(f"has {name} in pieces that do not join")

    def get_shape(self) -> list[int]:
        """Of the whole."""
        return self._shape

    def get_dtype(self) -> str:
        """As safetensors calls it."""
        return str(self._dtype)

    def __getitem__(self, rows: slice) -> Tensor:
        """These rows; of a number the number."""
        if not self._shape:
            return self._pieces[0][...]
        first, last, _ = rows.indices(self._shape[0])
        found = []
        for piece, begin, end in zip(self._pieces, self._begins, self._begins[1:], strict=False):
            low, high = max(first, begin) - begin, min(last, end) - begin
            if low < high:
                found.append(piece[low:high])
        return torch.cat(found or [self._pieces[0][:0]])


def _beginnings(file: Any) -> dict[str, list[int]]:
    """{name: where its rows begin} of each tensor of an open file."""
    told = (file.metadata() or {}).get(_BEGINNINGS)
    try:
        said = strict_json.read_object((told or "").encode(), _BEGINNINGS_BYTES)
        found = {name: said[name]["saved_offsets"] for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError("does not say where the rows of its tensors begin") from error
    for name, begin in found.items():
        shape = file.get_slice(name).get_shape()
        if not isinstance(begin, list) or len(begin) != len(shape) or any(type(at) is not int for at in begin):
            raise ValueError(f"does not say where the rows of {name} begin")
    return found
