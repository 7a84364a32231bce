"""One optimizer step, from the batch to the update; B sequences of T tokens in a step, over all processes.

1. The feed gives the tokens of the step and the subnetworks drawn for it, made ahead (inputs.py).
2. train_step() runs forward and backward of each micro-batch on its subnetwork, and sums gradients over the processes.
3. _update() clips, lets the optimizer decide whether the gradients are to be trusted, and changes the weights.

Nothing in it waits for the device: the decision about a gradient that is not finite is taken there, and loss and norm
are sent to the host, to be read when they have arrived.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from est_cli.common.signals import StopRequest
from est_cli.config import OnSpike, UnsampledRows
from est_cli.config.micro_batch import pieces
from est_cli.distributed import Agreed, read_header, step_header
from est_cli.est import reached_parts
from est_cli.est.coverage import Coverage
from est_cli.est.growth import grow
from est_cli.est.hashing import hash_numbers
from est_cli.est.sizes import SequenceCounts, sample_sizes
from est_cli.est.stacking import copied_from
from est_cli.training.health import LayerWatch
from est_cli.training.inputs import StepInputs
from est_cli.training.optim import lr_at, update
from est_cli.training.run import Run
from est_cli.training.spike_guard import Limits, limits_at

NO_STOP = StopRequest()


@dataclass(frozen=True)
class StepNumbers:
    """`loss` is the mean over the predictions of all micro-batches, or over the drawn ones (nats), `grad_norm` the norm
    before clipping."""

    loss: float
    grad_norm: float
    finite: bool
    """False: loss or gradient was not finite and nothing was updated."""
    skipped: bool = False
    """Whether nothing was updated because the step is a spike."""
    agreed: Agreed | None = None
    """What several processes know of each other; None for one process."""
    layers: Sequence[float] = ()
    """What a LayerWatch gave, where the step was measured."""


@dataclass(frozen=True)
class StepResult:
    """What happened in a step, or on a GPU: what will have happened when it is done."""

    lr: float
    numbers: Tensor
    """(3 + n,) on the host: loss, gradient norm, 1.0 if the update was rejected, then the summed header, if any."""
    layers: Tensor | None
    """On the host, what a LayerWatch gave, where the step was measured."""
    arrived: torch.cuda.Event | None
    world_size: int
    ran: SequenceCounts
    """What the step ran, over all processes."""
    pairs: tuple[int, ...] | None
    """As in StepInputs."""
    covered: Coverage | None
    """How often each unit was trained since the last step that was measured, if this is one."""
    limits: Limits | None
    """Those that the step was judged by."""

    def read(self) -> StepNumbers:
        """Wait for the numbers, where they are still on their way."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm, rejected, *header = self.numbers.tolist()
        layers = () if self.layers is None else self.layers.tolist()
        agreed = read_header(header, self.world_size) if header else None
        skipped = rejected > 0.0 and math.isfinite(loss) and math.isfinite(grad_norm) and self.limits is not None
        return StepNumbers(loss, grad_norm, rejected == 0.0 or skipped, skipped, agreed, layers)


def train_step(run: Run, step: int, stop: StopRequest = NO_STOP) -> StepResult:
    """Train on step `step` (0-based). Weights stay as they are if loss or gradient is not finite.

    `stop`: whether a signal has asked this process to stop, for the others to know.
    """
    config, device = run.config, run.accelerator.device
    batch, micro_batch = run.batch.at(step), run.micro_batch_at(step)
    # Inputs: tokens (own sequences, T), and the subnetworks that were drawn for them.
    _grow(run, step)
    inputs = run.feed.take(step, last=step + 1 == run.scheduler.max_steps)
    run.health.count(inputs.plan, pieces(batch.sequences, micro_batch, run.rank.world_size))
    tokens = inputs.tokens.to(device, non_blocking=True)
    drawn = None if inputs.drawn is None else inputs.drawn.to(device, non_blocking=True)
    targets = batch.targets if drawn is None else batch.sequences * drawn.shape[1]
    # Gradients: each micro-batch (b, T) on its subnetwork; those of a layer are sent while the next one computes.
    loss = None
    run.gradient_sync.begin(inputs.plan)
    run.handle.activate(inputs.plan.at(0))
    if inputs.plan.shared and run.gradient_sync.packs:
        run.handle.pack()
    with run.health.watching(step) as watch:
        for micro_step, micro in enumerate(tokens.split(micro_batch)):
            run.handle.activate(inputs.plan.at(micro_step))
            run.gradient_sync.before(micro_step)
            torch.manual_seed(hash_numbers((config.seed, step, micro_step, run.rank.rank)))  # for dropout
            here = None if drawn is None else drawn[micro_step * micro_batch :][: len(micro)]
            part = forward_backward(run, micro, targets, here)
            loss = part if loss is None else loss + part
    assert loss is not None
    # Agreement and update: the header carries the loss, stop signals and digests of what was drawn to all processes.
    if run.rank.world_size == 1:
        run.handle.unpack()
        return _update(run, step, inputs, loss, watch)
    header = run.gradient_sync.finish(step_header(loss, stop.signum, (inputs.digest, _next_digest(run, step))))
    run.handle.unpack()
    return _update(run, step, inputs, header[0].to(loss.dtype), watch, header)


def _next_digest(run: Run, step: int) -> int:
    """Of what the step after `step` will run: a difference is told before collectives of other sizes meet, which NCCL
    would wait for without end."""
    return 0 if step + 1 == run.scheduler.max_steps else run.feed.peek(step + 1).digest


def forward_backward(run: Run, tokens: Tensor, targets: int, drawn: Tensor | None = None) -> Tensor:
    """Gradients of one micro-batch, tokens (B, T) on the device; its share of the step's loss, detached.

    `targets`: predictions of the whole step; `drawn` (B, k): the positions of those that count.
    """
    scale = None if run.loss_scale is None else run.loss_scale.factor
    with run.autocast():
        loss: Tensor = run.objective(tokens, targets, scale, None, drawn)
    loss.backward()
    return loss.detach() if scale is None else loss.detach() / scale


def _grow(run: Run, step: int) -> None:
    """Where layers join in `step`, give them what they begin with: after its checkpoint, so that it happens once."""
    scheduler, options = run.scheduler, run.generator.options
    if not scheduler.growth or step not in scheduler.transitions():
        return
    before, after = (sample_sizes(run.spec, scheduler.rates_at(at), options).layers for at in (step - 1, step))
    sources = copied_from(scheduler.growth, before, after)
    grow(run.handle.layers, sources, run.optimizer.state, anew=scheduler.growth == "all")


def _update(
    run: Run, step: int, inputs: StepInputs, loss: Tensor, watch: LayerWatch | None, header: Tensor | None = None
) -> StepResult:
    """`loss`: of the whole step, over all processes."""
    optim = run.config.optim
    lr = lr_at(step, run.batch, optim)
    frozen = optim.unsampled_rows is UnsampledRows.frozen
    parts = reached_parts(run.handle, inputs.plan.drawn) if frozen else ()
    limits = limits_at(run, step)
    skipping = None if limits is None or run.config.train.on_spike is not OnSpike.skip else astuple(limits)
    clip = optim.grad_clip if optim.stage_clip is None else optim.stage_clip[run.batch.stage_at(step) - 1]
    grad_norm, rejected = update(run.optimizer, lr, clip, loss, parts, run.loss_scale, watch, skipping)
    numbers = torch.stack([loss, grad_norm, rejected])
    if header is not None:
        numbers = torch.cat([numbers.to(header.dtype), header])
    (on_host, *layers), arrived = _sent_to_host([numbers] if watch is None else [numbers, watch.numbers()])
    covered = None if watch is None else run.health.counted()
    return StepResult(
        lr=lr,
        numbers=on_host,
        layers=layers[0] if layers else None,
        arrived=arrived,
        world_size=run.rank.world_size,
        ran=inputs.ran,
        pairs=inputs.pairs,
        covered=covered,
        limits=limits,
    )


def _sent_to_host(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], torch.cuda.Event | None]:
    """The same on the host, or on their way there, and what says that they have arrived."""
    if tensors[0].device.type != "cuda":
        return tensors, None
    on_host = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for there, tensor in zip(on_host, tensors, strict=True):
        there.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return on_host, arrived
