"""One optimizer step: forward and backward over the micro-batches, clip, check, update.

Nothing in it waits for the device: the decision about a gradient that is not finite is taken there, and loss and norm
are sent to the host, to be read when they have arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from est_cli.est.index import hash_numbers
from est_cli.lm_loss import target_count
from est_cli.loop.run import Run
from est_cli.optim import lr_at, update


@dataclass(frozen=True)
class StepNumbers:
    """`loss` is the token mean over all micro-batches (nats), `grad_norm` the norm before clipping."""

    loss: float
    grad_norm: float
    finite: bool
    """False: loss or gradient was not finite and nothing was updated."""


@dataclass(frozen=True)
class StepResult:
    """What happened in a step, or on a GPU: what will have happened when it is done."""

    lr: float
    numbers: Tensor
    """(3,) on the host: loss, gradient norm, 1.0 if the update was rejected."""
    arrived: torch.cuda.Event | None

    def read(self) -> StepNumbers:
        """Wait for the numbers, where they are still on their way."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, grad_norm, rejected = self.numbers.tolist()
        return StepNumbers(loss, grad_norm, rejected == 0.0)


def train_step(run: Run, step: int) -> StepResult:
    """Train on step `step` (0-based). Weights stay as they are if loss or gradient is not finite."""
    config, device = run.config, run.accelerator.device
    inputs = run.feed.take(step, last=step + 1 == run.scheduler.max_steps)
    tokens = inputs.tokens.to(device, non_blocking=True)
    targets = target_count(tokens)
    loss = torch.zeros((), device=device)
    for micro_step, micro in enumerate(tokens.split(run.micro_batch_at(step))):
        run.handle.activate(inputs.subnetworks[min(micro_step, len(inputs.subnetworks) - 1)])
        torch.manual_seed(hash_numbers((config.seed, step, micro_step)))  # dropout is a function of these
        loss += forward_backward(run, micro, targets)
    return _update(run, step, loss)


def forward_backward(run: Run, tokens: Tensor, targets: int) -> Tensor:
    """Gradients of one micro-batch, tokens (B, T) on the device; its share of the step's loss, detached."""
    with run.accelerator.autocast():
        loss = run.lm_loss(run.model, tokens, targets)
    loss.backward()
    return loss.detach()


def _update(run: Run, step: int, loss: Tensor) -> StepResult:
    optim = run.config.optim
    lr = lr_at(step, run.scheduler.max_steps, optim)
    grad_norm, rejected = update(run.optimizer, lr, optim.grad_clip, loss)
    return _sent_to_host(lr, torch.stack([loss, grad_norm, rejected]))


def _sent_to_host(lr: float, numbers: Tensor) -> StepResult:
    if numbers.device.type != "cuda":
        return StepResult(lr, numbers, None)
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return StepResult(lr, on_host, arrived)
