"""Weights and optimizer state as named tensors in safetensors files, checked as a whole before a tensor is changed.

An open file is what `safetensors.safe_open` returns; its header is read without allocating the tensors. Every problem
is a ValueError of one line, except that a value that is not finite is a NumericsError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import PreTrainedModel

from est_cli.common.errors import NumericsError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class Stateful(Protocol):
    """What a checkpoint keeps of an optimizer: torch's, or several of them as one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """With `params`, and `fused` or `capturable` where step counts stand on the device."""

    @property
    def state(self) -> dict[Tensor, Any]:
        """A state for each parameter that has been updated; a look makes an empty one."""


def check_finite(tensors: dict[str, Tensor]) -> None:
    """NumericsError naming the first tensor with a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{name}: not finite, so nothing was saved")


def model_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """{name: weight or buffer} where it lives, each shared one once, under the first of its names."""
    return {names[0]: tensor.detach() for names, tensor in _weights(model)}


def optimizer_tensors(model: PreTrainedModel, optimizer: Stateful) -> dict[str, Tensor]:
    """{`PARAMETER/KEY`: state} where it lives; a parameter that has no state yet has no entry."""
    found = {}
    for name, param, _ in _optimized(model, optimizer):
        # `get`, because looking a parameter up in this defaultdict would give it a state.
        for key, value in optimizer.state.get(param, {}).items():
            assert isinstance(value, Tensor), f"the state {key} of {name} is no tensor"
            found[f"{name}/{key}"] = value.detach()
    return found


def check_weights(file: Any, model: PreTrainedModel) -> None:
    """ValueError unless `file` holds exactly the weights of `model`: names, shapes and dtypes, each shared one once."""
    left = set(file.keys())
    for names, tensor in _weights(model):
        present = left.intersection(names)
        if len(present) != 1:
            raise ValueError(f"has {names[0]} {len(present)} times instead of once; it is of another model")
        _check_like(file, present.pop(), tensor)
        left.difference_update(names)
    if left:
        raise ValueError(f"has {min(left)!r}, which the model has not")


def load_weights(file: Any, model: PreTrainedModel) -> None:
    """Copy the weights of a checked `file` into the existing tensors of `model`."""
    present = set(file.keys())
    with torch.no_grad():
        for names, tensor in _weights(model):
            entry = next(name for name in names if name in present)
            _local(tensor).copy_(_own_rows(file, entry, tensor))


def check_optimizer(file: Any, model: PreTrainedModel, optimizer: Stateful) -> None:
    """ValueError unless every entry of `file` belongs to an optimized parameter and fits its shape."""
    params = {name: param for name, param, _ in _optimized(model, optimizer)}
    for entry in file.keys():  # noqa: SIM118  (not a dict)
        name, slash, key = entry.rpartition("/")
        if not slash or not key or name not in params:
            raise ValueError(f"has {entry!r}, which belongs to no parameter that the optimizer has")
        shape, whole = file.get_slice(entry).get_shape(), list(params[name].shape)
        if not _spreads_over(shape, whole):
            raise ValueError(f"{entry} has shape {shape}, the parameter {whole}")


def load_optimizer(file: Any, model: PreTrainedModel, optimizer: Stateful) -> None:
    """Replace the whole state of `optimizer` by that of a checked `file`; parameters not in it have none afterwards."""
    entries = sorted(entry.rpartition("/") for entry in file.keys())  # noqa: SIM118
    owners = {name: (param, group) for name, param, group in _optimized(model, optimizer)}
    optimizer.state.clear()
    for name, _, key in entries:
        param, group = owners[name]
        # A copy, because what safetensors returns is the file itself, mapped: it would keep a deleted file alive.
        entry, device = f"{name}/{key}", _device(param, group, key)
        if file.get_slice(entry).get_shape() == list(param.shape):
            optimizer.state[param][key] = _spread_like(_own_rows(file, entry, param).to(device, copy=True), param)
        else:
            optimizer.state[param][key] = file.get_tensor(entry).to(device, copy=True)


def own_share(whole: Tensor, like: Tensor) -> Tensor:
    """This process's share of `whole`, where `like` is spread over processes; each takes its own, nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def first_row(tensor: Tensor) -> int:
    """Where this process's rows of a tensor that is spread over processes begin in the whole; 0 of any other."""
    if not isinstance(tensor, DTensor):
        return 0
    return int(compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)[1][0])


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or where it is spread over processes what all of them hold; then all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _own_rows(file: Any, entry: str, like: Tensor) -> Tensor:
    """What this process holds of an entry that has the shape of `like`; no other rows are read."""
    if not isinstance(like, DTensor):
        value: Tensor = file.get_tensor(entry)
        return value
    first = first_row(like)
    rows: Tensor = file.get_slice(entry)[first : first + len(like.to_local())]
    return rows


def _spread_like(rows: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return rows
    mesh, places = like.device_mesh, like.placements
    return DTensor.from_local(rows, mesh, places, run_check=False, shape=like.shape, stride=like.stride())


def _weights(model: PreTrainedModel) -> Iterator[tuple[list[str], Tensor]]:
    """Each tensor of the state dict once, with all its names (tied weights have several)."""
    shared: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), ([], tensor))[0].append(name)
    yield from shared.values()


def _optimized(model: PreTrainedModel, optimizer: Stateful) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """(name, parameter, its group) in the optimizer's order."""
    names = {param: name for name, param in model.named_parameters()}
    for group in optimizer.param_groups:
        for param in group["params"]:
            yield names[param], param, group


def _check_like(file: Any, name: str, tensor: Tensor) -> None:
    entry = file.get_slice(name)
    shape, dtype = entry.get_shape(), _DTYPES.get(entry.get_dtype())
    if shape != list(tensor.shape) or dtype != tensor.dtype:
        raise ValueError(f"{name} is {entry.get_dtype()} {shape}, the model's is {tensor.dtype} {list(tensor.shape)}")


def _spreads_over(shape: list[int], whole: list[int]) -> bool:
    """True for the parameter's own shape, one number, and sums over dimensions kept as 1 (factored moments)."""
    return not shape or (len(shape) == len(whole) and all(a in (1, b) for a, b in zip(shape, whole, strict=True)))


def _device(param: Tensor, group: dict[str, Any], key: str) -> torch.device:
    """Where torch's own load_state_dict would put it: step counts stay on the CPU unless the update is one kernel."""
    on_host = key == "step" and not (group.get("fused") or group.get("capturable"))
    return torch.device("cpu") if on_host else param.device


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
    model: PreTrainedModel,
    optimizer: Stateful | None,
    buffers: Buffers | None = None,
    keep: bool = True,
    part: Callable[[Tensor], Tensor | None] = whole,
) -> Snapshot:
    """The present weights and moments.

    Where they are spread over processes, all of them must call this; each tensor is put together in turn, and only a
    process that says `keep` copies it to its host's memory. `part`: what of a tensor is kept instead, None: nothing.

    With `buffers` everything is copied into them, on a GPU without waiting: training may go on at once, and the next
    snapshot into the same buffers must wait until this one is written. Without, tensors that are on the CPU already are
    not copied: nothing may change until the snapshot is written.
    """
    weights = model_tensors(model)
    moments = {} if optimizer is None else optimizer_tensors(model, optimizer)
    on_host = {}
    for name, tensor in {**weights, **moments}.items():
        own = part(tensor)
        if keep and own is not None:
            on_host[name] = _to_host(name, own, buffers)
    arrived = None
    if keep and any(tensor.is_cuda for tensor in weights.values()):
        arrived = torch.cuda.Event(blocking=True)
        arrived.record()
    return Snapshot(
        weights={name: on_host[name] for name in weights if name in on_host},
        moments={name: on_host[name] for name in moments if name in on_host},
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
    return buffers[name].copy_(tensor, non_blocking=tensor.is_cuda)  # the event below is CUDA's


def _config(model: PreTrainedModel) -> Any:
    """A copy of the model's config with what `save_pretrained` would write into it."""
    config = deepcopy(model.config)
    config.dtype = str(model.dtype).removeprefix("torch.")
    config.architectures = [type(model).__name__]
    return config
