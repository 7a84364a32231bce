"""Data parallel: each process holds the whole model, and only gradients that exist are summed.

A skipped layer has no gradient and costs nothing; of a sampled projection only the units that ran are sent. Large
gradients are sent as soon as the backward of their layer is done, while the layers below are still at work; the others
wait in a bucket until it is full. torch's DistributedDataParallel cannot do this: its buckets are fixed, and under
find_unused_parameters it sends zeros for what did not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from est_cli.distributed.gradient_sync import SHARED_BELOW, StepPlan
from est_cli.est import GradientPart, packed_copies, sampled_parts, whole_parts

BUCKET = 1 << 23
"""The most entries of a bucket: 32 MB in fp32, which is about what torch's DistributedDataParallel takes (25 MB)."""


class DataParallel:
    """GradientSync of processes that hold the same model (see GradientSync)."""

    packs = True

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], wire: torch.dtype | None = None) -> None:
        """`wire`: the type in which sums are sent and formed, None: the gradients' own.

        Losses are divided by the targets of the whole step before backward, so that the sum is the mean. What a process
        sends is its sum over its micro-batches, in the gradients' type, rounded once; the result is put back into them.
        """
        self.reduced_bytes = 0
        self._wire = wire
        self._layers = layers
        inside = {parameter for layer in layers for parameter in layer.parameters()}
        self._outside = [parameter for parameter in model.parameters() if parameter not in inside]
        self._plan = StepPlan((), 0, None)
        self._missing: dict[int, int] = {}
        """Gradients that a layer still waits for in the last micro-step."""
        self._bucket: list[GradientPart] = []
        """Complete, and not sent yet."""
        self._in_bucket = 0
        """Entries."""
        self._messages: list[_Message] = []
        for number, layer in enumerate(layers):
            for parameter in layer.parameters():
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def begin(self, plan: StepPlan) -> None:
        self._plan, self._missing, self._messages = plan, {}, []
        self._bucket, self._in_bucket = [], 0

    def before(self, micro_step: int) -> None:
        """From now on a layer's gradients are complete when they arrive, if this is the last micro-step."""
        if micro_step + 1 < self._plan.micro_steps or self._plan.anywhere is not None:
            return
        running = self._plan.at(micro_step).layer_idx
        for number in range(len(self._layers)) if running is None else running:
            layer = self._layers[number]
            self._missing[number] = sum(1 for _ in layer.parameters())
            for copy in packed_copies(layer):  # its gradient stands for that of the parameter, which gets none
                copy.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def finish(self, header: Tensor) -> Tensor:
        assert not self._missing, f"layers {sorted(self._missing)} ran without giving all gradients"
        for number in sorted(self._plan.anywhere or (), reverse=True):
            self._reduce(whole_parts(self._layers[number]))
        self._reduce([GradientPart(parameter) for parameter in self._outside if parameter.grad is not None])
        self._send_bucket()
        summed = dist.all_reduce(header, async_op=True)
        for message in self._messages:
            message.finish()
        self.reduced_bytes = sum(message.nbytes for message in self._messages)
        self._messages = []  # and their buffers, which together may be as large as the gradients
        summed.wait()
        return header

    def _arrived(self, number: int, parameter: Tensor) -> None:
        if number not in self._missing:
            return
        self._missing[number] -= 1
        if not self._missing[number]:
            del self._missing[number]
            self._reduce(sampled_parts(self._layers[number]))

    def _reduce(self, parts: Iterable[GradientPart]) -> None:
        for part in parts:
            if part.parameter.grad is None:  # ran elsewhere only
                part.parameter.grad = torch.zeros_like(part.parameter)
            if part.numel >= SHARED_BELOW:
                self._messages.append(_Message([part], self._wire))
                continue
            if self._in_bucket + part.numel > BUCKET:
                self._send_bucket()
            self._bucket.append(part)
            self._in_bucket += part.numel

    def _send_bucket(self) -> None:
        if self._bucket:
            self._messages.append(_Message(self._bucket, self._wire))
        self._bucket, self._in_bucket = [], 0


class _Message:
    """Gradients that are summed in one collective, under way from the moment this is made until `finish`: one of them
    where it lies, or several in a buffer."""

    def __init__(self, parts: Sequence[GradientPart], wire: torch.dtype | None) -> None:
        tensor = parts[0].parameter.grad
        assert tensor is not None
        self._copied: list[tuple[GradientPart, Tensor]] = []
        if len(parts) > 1 or parts[0].units is not None or wire not in (None, tensor.dtype):
            sizes = [part.numel for part in parts]
            tensor = tensor.new_empty(sum(sizes), dtype=wire)
            self._copied = [*zip(parts, tensor.split(sizes), strict=True)]
        for part, piece in self._copied:
            part.gather(piece)
        self.nbytes = tensor.nbytes
        self._work = dist.all_reduce(tensor, async_op=True)

    def finish(self) -> None:
        """Wait for the sums and put them into the gradients."""
        self._work.wait()
        for part, piece in self._copied:
            part.scatter(piece)


def weight_checksum(model: nn.Module) -> int:
    """A number below 2**63 that processes share while all bits of their weights, or of their shares of them, are equal;
    waits for the device."""
    total = torch.zeros((), dtype=torch.int64, device=next(model.parameters()).device)
    for number, parameter in enumerate(_shares(model), start=1):
        bits = parameter.detach().reshape(-1).view(_WORDS[parameter.element_size()])
        total += number * bits.sum(dtype=torch.int64)
    return int(total) & ((1 << 63) - 1)


def weights_finite(model: nn.Module) -> bool:
    """Whether this process's share of the weights holds no NaN and no infinity; waits for the device."""
    return all(bool(torch.isfinite(share).all()) for share in _shares(model))


def _shares(model: nn.Module) -> Iterator[Tensor]:
    """What this process holds of each parameter."""
    for weight in model.parameters():
        yield weight.to_local() if isinstance(weight, DTensor) else weight


_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
