"""One optimizer step: draw, forward and backward over the micro-batches, clip, check, update."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from est_cli.est import training_flops
from est_cli.est.index import hash_numbers
from est_cli.est.sizes import full_sizes, realised_rates, sample_sizes
from est_cli.evaluate import next_token_loss, target_count
from est_cli.loop.run import Run
from est_cli.optim import lr_at, set_lr


@dataclass(frozen=True)
class StepResult:
    """What happened in a step. `loss` is the token mean over all micro-batches (nats)."""

    loss: float
    grad_norm: float
    lr: float
    finite: bool
    """False: loss or gradient was not finite and nothing was updated."""


def train_step(run: Run, step: int) -> StepResult:
    """Train on step `step` (0-based). Weights stay as they are if loss or gradient is not finite."""
    config = run.config
    tokens = run.step_tokens(step)
    targets = target_count(tokens)
    loss = torch.zeros((), device=run.accelerator.device)
    for micro_step, micro in enumerate(tokens.split(config.train.micro_batch)):
        _activate(run, step, micro_step)
        _seed_dropout(config.seed, step, micro_step)
        micro = micro.to(run.accelerator.device, non_blocking=True)
        with run.accelerator.autocast():
            logits = run.model(input_ids=micro, use_cache=False).logits
        micro_loss = next_token_loss(logits, micro) / targets
        run.accelerator.backward(micro_loss)
        loss += micro_loss.detach()
    return _update(run, step, loss)


def count_flops(run: Run, step: int) -> None:
    """Enter step `step` into the ledger: what ran, and what the complete model would have used."""
    rates, batch, seq_len = run.scheduler.rates_at(step), run.sequences_per_step, run.config.train.seq_len
    sizes = sample_sizes(run.spec, rates, run.generator.options)
    dense = training_flops(run.spec, full_sizes(run.spec), batch, seq_len)
    run.ledger.add(training_flops(run.spec, sizes, batch, seq_len), dense)
    run.state.flops_blocks, run.state.flops_total = run.ledger.used.blocks, run.ledger.used.total


def logged_rates(run: Run, step: int) -> dict[str, float]:
    """The realised sampling rates k/N of a step."""
    sizes = sample_sizes(run.spec, run.scheduler.rates_at(step), run.generator.options)
    return vars(realised_rates(run.spec, sizes))


def _activate(run: Run, step: int, micro_step: int) -> None:
    if micro_step == 0 or run.generator.options.redraw == "forward":
        run.handle.activate(run.generator.draw(step, run.scheduler.rates_at(step), micro_step))


def _seed_dropout(seed: int, step: int, micro_step: int) -> None:
    """Dropout is a function of (seed, step, micro-step), so that nothing random must be saved."""
    torch.manual_seed(hash_numbers((seed, step, micro_step)))


def _update(run: Run, step: int, loss: torch.Tensor) -> StepResult:
    config = run.config
    limit = config.optim.grad_clip or float("inf")
    grad_norm = run.accelerator.clip_grad_norm_(run.model.parameters(), limit)
    assert grad_norm is not None
    lr = lr_at(step, run.scheduler.max_steps, config.optim)
    finite = bool(torch.isfinite(loss + grad_norm))
    if finite:
        set_lr(run.optimizer, lr)
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return StepResult(loss.item(), float(grad_norm), lr, finite)
