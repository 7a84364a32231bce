"""Each layer's health at some steps: norms of gradients, updates and weights, what it gives, what was trained.

All of it is computed where the numbers are and sent to the host with the step's own: nothing waits. A step that is
measured trains what it would have trained, bit for bit; its weights change layer by layer, so that no more than one
layer's are there twice. L layers, H heads, M columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from est_cli.distributed import StepPlan
from est_cli.est import EstHandle, GradientPart, IndexGenerator, SamplingScheduler
from est_cli.est.coverage import Counts, Coverage
from est_cli.est.sizes import MicroBatchSplit

HEADS, COLUMNS, REST, OUTSIDE = "heads", "columns", "rest", "outside"
"""Parameters that hold heads, those that hold columns, what else a layer has, and what lies outside of the layers."""
KINDS = (HEADS, COLUMNS, REST)
NORMS = ("grad_norm", "update_norm", "weight_norm")
DIGITS = 7
"""Of a number that was measured in fp32."""


@dataclass(frozen=True)
class Part:
    """Parameters of one kind in one layer, or (`layer` None) all that lie outside of the layers."""

    layer: int | None
    kind: str
    parameters: tuple[nn.Parameter, ...]


def parts_of(model: nn.Module, handle: EstHandle) -> list[Part]:
    """Every parameter that learns, in one part each; kinds that a layer does not have are left out."""
    units = {f"{held.path}.{held.name}".lstrip("."): held.unit for held in handle.spec.sampled}
    inside: set[nn.Parameter] = set()
    parts = []
    for number, layer in enumerate(handle.layers):
        found: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
        for name, parameter in layer.named_parameters():
            unit = units.get(name)
            found[REST if unit is None else COLUMNS if unit == "column" else HEADS].append(parameter)
            inside.add(parameter)
        parts += [Part(number, kind, _learning(members)) for kind, members in found.items()]
    parts.append(Part(None, OUTSIDE, _learning([p for p in model.parameters() if p not in inside])))
    return [part for part in parts if part.parameters]


def _learning(parameters: Sequence[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    return tuple(parameter for parameter in parameters if parameter.requires_grad)


class Health:
    """Which steps of a run are measured, and what comes of it."""

    def __init__(
        self, model: nn.Module, handle: EstHandle, every: int, device: torch.device, replicas: int | None
    ) -> None:
        """`every`: 0 for never; `replicas`: of several processes, how many hold each weight; None: there is but one."""
        self.handle, self.device, self.every, self.replicas = handle, device, every, replicas
        self.parts = parts_of(model, handle) if every else []
        self._counts = Counts(handle.spec)

    @contextmanager
    def watching(self, step: int) -> Iterator[LayerWatch | None]:
        """What measures step `step` (0-based), while its forward and backward passes run; None: it is not measured."""
        if not self.is_due(step):
            yield None
            return
        watch = LayerWatch(self)
        for number, layer in enumerate(self.handle.layers):
            layer.__dict__["est_shown"] = partial(watch.see_output, number)
        try:
            yield watch
        finally:
            for layer in self.handle.layers:
                del layer.__dict__["est_shown"]

    def is_due(self, step: int) -> bool:
        """Whether step `step` (0-based) is measured."""
        return self.every > 0 and (step + 1) % self.every == 0

    def count(self, plan: StepPlan, sequences: Sequence[int]) -> None:
        """Count what a step trains; `sequences`: of each of its micro-steps, over all processes."""
        if self.every:
            ranks = len(plan.drawn) // len(plan.subnetworks)
            of_each = sequences if len(plan.subnetworks) > 1 else (sum(sequences),)
            for number, subnetwork in enumerate(plan.drawn):
                self._counts.add(subnetwork, of_each[number % len(of_each)] / sum(sequences) / ranks)

    def recount(
        self, done: int, scheduler: SamplingScheduler, generator: IndexGenerator, splits: Mapping[int, MicroBatchSplit]
    ) -> None:
        """Begin anew with the last of `done` steps, those that have come since one was measured. `splits`: by stage."""
        self._counts = Counts(self.handle.spec)
        for step in range(done - done % self.every, done) if self.every else ():
            self._counts.add_step(generator, step, scheduler.rates_at(step), splits[scheduler.stage_at(step)])

    def counted(self) -> Coverage:
        """Of the steps since the last that was measured; begins anew."""
        counts, self._counts = self._counts, Counts(self.handle.spec)
        return counts.shares(self.every)

    def record(self, numbers: Sequence[float], covered: Coverage) -> dict[str, Any]:
        """What layers.jsonl has of a step, from what its LayerWatch gave, read, and from `counted`."""
        layers, count = len(self.handle.layers), len(self.parts)
        norms = [numbers[at * count : (at + 1) * count] for at in range(len(NORMS))]
        squares, entries = numbers[len(NORMS) * count :][:layers], numbers[len(NORMS) * count + layers :]
        ran = [held > 0 for held in entries]
        record: dict[str, Any] = {}
        for name, found in zip(NORMS, norms, strict=True):
            record |= self._by_kind(name, [_shown(square) for square in found], ran)
        sizes = [_shown(square / held) if held else None for square, held in zip(squares, entries, strict=True)]
        return record | {"activation_rms": sizes} | _trained(covered)

    def _by_kind(self, name: str, values: Sequence[float], ran: Sequence[bool]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part, value in zip(self.parts, values, strict=True):
            if part.layer is None:
                found[f"{name}_{part.kind}"] = value
            else:
                of_layers = found.setdefault(f"{name}_{part.kind}", [None] * len(ran))
                of_layers[part.layer] = value if ran[part.layer] or name != "grad_norm" else None
        return found


class LayerWatch:
    """Measures one step. Its numbers are sums of squares, and of activations how many there were."""

    def __init__(self, health: Health) -> None:
        self._health = health
        layers = len(health.handle.layers)
        self._norms = torch.zeros(len(NORMS), len(health.parts), device=health.device)
        self._outputs = torch.zeros(2, layers, device=health.device)

    def see_output(self, number: int, y: Tensor) -> None:
        """`y`: what layer `number` gives in a micro-step, of any shape."""
        norm = torch.linalg.vector_norm(y.detach(), dtype=torch.float32)
        self._outputs[0, number].add_(norm.square())
        self._outputs[1, number].add_(y.numel())

    def see_gradients(self, scale: Tensor | None) -> None:
        """See optim.update.Watch."""
        for number, part in enumerate(self._health.parts):
            gradients = [parameter.grad for parameter in part.parameters if parameter.grad is not None]
            norm = _norm(gradients)
            if norm is not None:
                self._norms[0, number] = (norm if scale is None else norm / scale).square()

    def see_updates(self, take: Callable[[Sequence[GradientPart]], None], parts: Sequence[GradientPart]) -> None:
        """See optim.update.Watch."""
        gradients = [{p: p.grad for p in part.parameters if p.grad is not None} for part in self._health.parts]
        for parameter in (parameter for found in gradients for parameter in found):
            parameter.grad = None
        for number, found in enumerate(gradients):
            for parameter, gradient in found.items():
                parameter.grad = gradient
            self._see_update(number, [*found], partial(take, [part for part in parts if part.parameter in found]))
            for parameter in found:
                parameter.grad = None

    @torch.no_grad()
    def _see_update(self, number: int, changing: Sequence[nn.Parameter], take: Callable[[], None]) -> None:
        weight = _norm(self._health.parts[number].parameters)
        assert weight is not None
        self._norms[2, number] = weight.square()
        if not changing:
            return
        before = [_local(parameter).clone() for parameter in changing]
        take()
        torch._foreach_sub_(before, [_local(parameter) for parameter in changing])
        update = _norm(before)
        assert update is not None
        self._norms[1, number] = update.square()

    def numbers(self) -> Tensor:
        """(3 * parts + 2 * L,) fp32 on the device, over all processes, which all call it."""
        replicas = self._health.replicas
        numbers = torch.cat([self._norms.flatten(), self._outputs.flatten()])
        if replicas is not None:
            dist.all_reduce(numbers)
            numbers[: self._norms.numel()] /= replicas
        return numbers


def _norm(tensors: Sequence[Tensor]) -> Tensor | None:
    """() the norm of this process's shares of all `tensors` together; None where there is none."""
    return nn.utils.get_total_norm([_local(tensor) for tensor in tensors]) if tensors else None


def _local(tensor: Tensor) -> Tensor:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach()


def _shown(square: float) -> float:
    """The root, of as many digits as were measured."""
    return float(f"{square**0.5:.{DIGITS}g}")


def _trained(covered: Coverage) -> dict[str, Any]:
    found: dict[str, Any] = {"trained_layers": covered.layers.tolist(), "trained_heads": covered.heads.tolist()}
    if covered.columns.shape[1]:
        columns = covered.columns
        spread = torch.stack([columns.amin(1), columns.mean(1), columns.amax(1)], dim=1)
        found["trained_columns"] = [[round(share, DIGITS) for share in row] for row in spread.tolist()]
    return found
