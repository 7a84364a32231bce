"""A moment of training, held on the host: what is written from it needs neither the model nor the device."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from est_cli.storage import tensors
from est_cli.storage.tensors import Stateful

Buffers = dict[str, Tensor]
"""Host memory that snapshots of one run are taken into, one after the other; it grows with the first."""


@dataclass(frozen=True)
class Snapshot:
    """Weights and moments on the CPU, and the configs that make them a model. Call `wait` before reading a tensor."""

    weights: dict[str, Tensor]
    """By name, each shared one once."""
    moments: dict[str, Tensor]
    """`PARAMETER/KEY`; empty without an optimizer."""
    config: Any
    generation_config: Any
    """None where the model cannot generate."""
    arrived: torch.cuda.Event | None = None
    """On a GPU the copies only queue up; this event follows the last of them."""

    def wait(self) -> None:
        """Block until all tensors are there."""
        if self.arrived is not None:
            self.arrived.synchronize()


def take_snapshot(
    model: PreTrainedModel, optimizer: Stateful | None, buffers: Buffers | None = None, keep: bool = True
) -> Snapshot:
    """The present weights and moments.

    Where they are spread over processes, all of them must call this; each tensor is put together in turn, and only a
    process that says `keep` copies it to its host's memory.

    With `buffers` everything is copied into them, on a GPU without waiting: training may go on at once, and the next
    snapshot into the same buffers must wait until this one is written. Without, tensors that are on the CPU already are
    not copied: nothing may change until the snapshot is written.
    """
    weights = tensors.model_tensors(model)
    moments = {} if optimizer is None else tensors.optimizer_tensors(model, optimizer)
    on_host = {}
    for name, tensor in {**weights, **moments}.items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            on_host[name] = _to_host(name, whole, buffers)
    arrived = None
    if keep and any(tensor.is_cuda for tensor in weights.values()):
        arrived = torch.cuda.Event(blocking=True)
        arrived.record()
    return Snapshot(
        weights={name: on_host[name] for name in weights if keep},
        moments={name: on_host[name] for name in moments if keep},
        config=_config(model),
        generation_config=deepcopy(model.generation_config) if model.can_generate() else None,
        arrived=arrived,
    )


def _to_host(name: str, tensor: Tensor, buffers: Buffers | None) -> Tensor:
    if buffers is None:
        return tensor.cpu().contiguous()
    if name not in buffers:
        # Only a copy into page-locked memory leaves the training thread alone.
        buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return buffers[name].copy_(tensor, non_blocking=True)


def _config(model: PreTrainedModel) -> Any:
    """A copy of the model's config with what `save_pretrained` would write into it."""
    config = deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    return config
