"""One optimizer step: forward and backward over the micro-batches, clip, check, update.

Nothing in it waits for the device: the decision about a gradient that is not finite is taken there, and loss and norm
are sent to the host, to be read when they have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from est_cli.common.signals import StopRequest
from est_cli.config import UnsampledRows
from est_cli.distributed import Agreed, read_header, step_header
from est_cli.est import reached_parts
from est_cli.est.growth import grow
from est_cli.est.index import hash_numbers
from est_cli.est.sizes import Ran, sample_sizes
from est_cli.est.stacking import copied_from
from est_cli.training.feed import StepInputs
from est_cli.training.optim import lr_at, update
from est_cli.training.run import Run

NO_STOP = StopRequest()


@dataclass(frozen=True)
class StepNumbers:
    """`loss` is the token mean over all micro-batches (nats), `grad_norm` the norm before clipping."""

    loss: float
    grad_norm: float
    finite: bool
    """False: loss or gradient was not finite and nothing was updated."""
    agreed: Agreed | None = None
    """What several processes know of each other; None for one process."""


@dataclass(frozen=True)
class StepResult:
    """What happened in a step, or on a GPU: what will have happened when it is done."""

    lr: float
    numbers: Tensor
    """(3 + n,) on the host: loss, gradient norm, 1.0 if the update was rejected, then the summed header, if any."""
    arrived: torch.cuda.Event | None
    world_size: int
    ran: Ran
    """What the step ran, over all processes."""

    def read(self) -> StepNumbers:
        """Wait for the numbers, where they are still on their way."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm, rejected, *header = self.numbers.tolist()
        agreed = read_header(header, self.world_size) if header else None
        return StepNumbers(loss, grad_norm, rejected == 0.0, agreed)


def train_step(run: Run, step: int, stop: StopRequest = NO_STOP) -> StepResult:
    """Train on step `step` (0-based). Weights stay as they are if loss or gradient is not finite.

    `stop`: whether a signal has asked this process to stop, for the others to know.
    """
    config, device = run.config, run.accelerator.device
    _grow(run, step)
    inputs = run.feed.take(step, last=step + 1 == run.scheduler.max_steps)
    tokens = inputs.tokens.to(device, non_blocking=True)
    loss = None
    run.exchange.begin(inputs.plan)
    for micro_step, micro in enumerate(tokens.split(run.micro_batch_at(step))):
        run.handle.activate(inputs.plan.at(micro_step))
        run.exchange.before(micro_step)
        torch.manual_seed(hash_numbers((config.seed, step, micro_step, run.rank.rank)))  # for dropout
        part = forward_backward(run, micro, run.targets_per_step)
        loss = part if loss is None else loss + part
    assert loss is not None
    if run.rank.world_size == 1:
        return _update(run, step, inputs, loss)
    header = run.exchange.finish(step_header(loss, stop.signum, inputs.digest))
    return _update(run, step, inputs, header[0].to(loss.dtype), header)


def forward_backward(run: Run, tokens: Tensor, targets: int) -> Tensor:
    """Gradients of one micro-batch, tokens (B, T) on the device; its share of the step's loss, detached."""
    with run.accelerator.autocast():
        loss: Tensor = run.objective(tokens, targets)
    loss.backward()
    return loss.detach()


def _grow(run: Run, step: int) -> None:
    """Where layers join in `step`, give them what they begin with: after its checkpoint, so that it happens once."""
    scheduler, options = run.scheduler, run.generator.options
    if not scheduler.growth or step not in scheduler.transitions():
        return
    before, after = (sample_sizes(run.spec, scheduler.rates_at(at), options).layers for at in (step - 1, step))
    sources = copied_from(scheduler.growth, before, after)
    grow(run.handle.layers, sources, run.optimizer.state, anew=scheduler.growth == "all")


def _update(run: Run, step: int, inputs: StepInputs, loss: Tensor, header: Tensor | None = None) -> StepResult:
    """`loss`: of the whole step, over all processes."""
    optim = run.config.optim
    lr = lr_at(step, run.scheduler.max_steps, optim)
    frozen = optim.unsampled_rows is UnsampledRows.frozen
    parts = reached_parts(run.handle, inputs.plan.drawn) if frozen else ()
    grad_norm, rejected = update(run.optimizer, lr, optim.grad_clip, loss, parts)
    numbers = torch.stack([loss, grad_norm, rejected])
    if header is not None:
        numbers = torch.cat([numbers.to(header.dtype), header])
    return _sent_to_host(lr, numbers, run.rank.world_size, inputs.ran)


def _sent_to_host(lr: float, numbers: Tensor, world_size: int, ran: Ran) -> StepResult:
    if numbers.device.type != "cuda":
        return StepResult(lr, numbers, None, world_size, ran)
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return StepResult(lr, on_host, arrived, world_size, ran)
