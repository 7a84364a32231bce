"""The training loop: steps, and what is due after them (logging, validation, samples, checkpoints, stopping)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from est_cli.checkpoint.content import save_checkpoint
from est_cli.checkpoint.store import retain, step_folders
from est_cli.errors import NumericsError, StoppedBySignal, StorageError
from est_cli.evaluate import sample_text, validation_loss
from est_cli.loop.build import describe
from est_cli.loop.device import peak_flop_per_s, peak_memory_gb
from est_cli.loop.finish import finish
from est_cli.loop.run import Run
from est_cli.loop.signals import StopRequest, stop_on_signals
from est_cli.loop.step import StepResult, count_flops, logged_rates, train_step

MAX_REJECTED = 3
"""Steps in a row whose gradient is not finite before the run stops."""
MAX_FAILED_SAVES = 3


@dataclass
class _Window:
    """Steps and their seconds since the last record; a record's step time is the mean over them."""

    steps: int = 0
    step_s: float = 0.0
    flops: int = 0

    def add(self, seconds: float, flops: int) -> None:
        self.steps, self.step_s, self.flops = self.steps + 1, self.step_s + seconds, self.flops + flops


@dataclass
class _Loop:
    """What lives only as long as this process trains."""

    run: Run
    stop: StopRequest
    began: float = field(default_factory=time.monotonic)
    window: _Window = field(default_factory=_Window)
    failed_saves: int = 0
    saved_step: int = -1


def train(run: Run) -> dict[str, Any]:
    """Train to the last step and finish the run; returns what summary.json holds.

    Raises StoppedBySignal after saving a checkpoint, NumericsError, StorageError.
    """
    with stop_on_signals() as stop:
        for line in describe(run):
            run.progress.line(line)
        loop = _Loop(run, stop)
        time_before = run.state.time_s
        if run.state.step:
            run.progress.line(f"resumed   after step {run.state.step}")
        for step in range(run.state.step, run.scheduler.max_steps):
            _one_step(loop, step)
            run.state.time_s = time_before + time.monotonic() - loop.began
            _what_is_due(loop, step + 1)
        return finish(run)


def _one_step(loop: _Loop, step: int) -> None:
    run, state = loop.run, loop.run.state
    begin, used = time.perf_counter(), run.ledger.used.total
    result = train_step(run, step)
    seconds = time.perf_counter() - begin
    count_flops(run, step)
    loop.window.add(seconds, run.ledger.used.total - used)
    first_of_stage = step in run.scheduler.transitions()
    loss_before, state.step = state.last_loss, step + 1
    _record_step(loop, step, result, seconds)
    if first_of_stage:
        _record_transition(run, step, loss_before, result.loss)
    state.last_loss = result.loss if result.finite else loss_before
    _guard(loop, step, result)


def _guard(loop: _Loop, step: int, result: StepResult) -> None:
    """A step without a finite gradient changed nothing; several in a row mean that training is lost."""
    run, state = loop.run, loop.run.state
    if result.finite:
        state.rejected_in_a_row = 0
        return
    state.rejected_in_a_row += 1
    first = step * run.sequences_per_step
    where = f"step {step + 1} (samples {first} to {first + run.sequences_per_step - 1})"
    run.tracker.event("not_finite", {"step": step + 1, "first_sample": first, "samples": run.sequences_per_step})
    run.progress.line(f"warning: loss or gradient not finite at {where}; the update was left out")
    if state.rejected_in_a_row >= MAX_REJECTED:
        raise NumericsError(
            f"{run.dir.root}: loss or gradient not finite for {MAX_REJECTED} steps in a row, last at {where}; "
            "lower optim.lr or look at these samples"
        )


def _record_step(loop: _Loop, step: int, result: StepResult, seconds: float) -> None:
    run, scheduler = loop.run, loop.run.scheduler
    stage, done = scheduler.stage_at(step), step + 1
    tokens_per_s = run.config.train.tokens_per_step * loop.window.steps / loop.window.step_s
    saved, saved_end = run.ledger.saved_pct("blocks"), run.planned.saved_pct("blocks")
    run.progress.update(done, stage, seconds, result.loss, saved, saved_end, tokens_per_s)
    every = run.config.train.log_every
    last_of_stage = done in (*scheduler.transitions(), scheduler.max_steps)
    if every and (done % every == 0 or last_of_stage or step in scheduler.transitions()):
        run.tracker.train(_train_record(loop, step, result, tokens_per_s))
        loop.window = _Window()


def _train_record(loop: _Loop, step: int, result: StepResult, tokens_per_s: float) -> dict[str, Any]:
    run, window = loop.run, loop.window
    peak = peak_flop_per_s(run.accelerator.device, run.config.train.precision)
    return {
        "step": step + 1,
        "tokens": (step + 1) * run.config.train.tokens_per_step,
        "stage": run.scheduler.stage_at(step),
        **logged_rates(run, step),
        "loss": result.loss,
        "lr": result.lr,
        "grad_norm": result.grad_norm,
        "flops": run.ledger.used.total,
        "flops_dense": run.ledger.dense.total,
        "flops_saved_pct_blocks": run.ledger.saved_pct("blocks"),
        "flops_saved_pct_total": run.ledger.saved_pct("total"),
        "tokens_per_s": tokens_per_s,
        "step_s": window.step_s / window.steps,
        "mfu": None if peak is None else window.flops / window.step_s / peak,
        "mem_gb": peak_memory_gb(run.accelerator.device),
    }


def _record_transition(run: Run, step: int, loss_before: float | None, loss_after: float) -> None:
    """The first step of a new stage is done: its loss beside that of the step before."""
    old, new = run.scheduler.stage_at(step - 1), run.scheduler.stage_at(step)
    losses = {"loss_before": loss_before, "loss_after": loss_after}
    run.tracker.transition({"step": step + 1, "from_stage": old, "to_stage": new, **losses})
    before = "?" if loss_before is None else f"{loss_before:.4f}"
    run.progress.line(f"stage {old} -> {new} at step {step + 1}: loss {before} -> {loss_after:.4f}")


def _what_is_due(loop: _Loop, done: int) -> None:
    """After step number `done`: in this order, so that a checkpoint's record holds its own evaluation."""
    run, train = loop.run, loop.run.config.train
    last = done == run.scheduler.max_steps
    if last or _every(done, train.eval_every):
        evaluate(run)
    if train.sample_every and (last or _every(done, train.sample_every)):
        _sample(run)
    if last or done in run.scheduler.transitions() or _every(done, train.checkpoint_every):
        _save(loop)
    if loop.stop.signum is not None and not last:
        if loop.saved_step != done:
            _save(loop)
        saved = "saved" if loop.saved_step == done else "no checkpoint could be saved"
        message = f"{run.dir.root}: {saved} at step {done}; resume={run.dir.root} continues"
        raise StoppedBySignal(loop.stop.signum, message)


def evaluate(run: Run) -> float:
    """Validation loss of the complete model, recorded at the present step."""
    train = run.config.train
    run.handle.activate_full()
    loss = validation_loss(run.model, run.validation_batches(), run.accelerator.autocast)
    step = run.state.step
    perplexity = math.exp(loss) if loss < 700 else math.inf
    record = {"step": step, "tokens": step * train.tokens_per_step, "val_loss": loss, "perplexity": perplexity}
    run.tracker.validation(record)
    run.progress.line(f"validation at step {step}: loss {loss:.4f}, perplexity {perplexity:.2f}")
    return loss


def _sample(run: Run) -> None:
    train = run.config.train
    run.handle.activate_full()
    text = sample_text(run.model, run.corpus.tokenizer, train.sample_prompt, train.sample_tokens, run.config.seed)
    run.progress.line(f"sample at step {run.state.step}: {text}")


def _save(loop: _Loop) -> None:
    """Save a checkpoint and drop old ones. A failure is a warning as long as an older checkpoint is there."""
    run, train = loop.run, loop.run.config.train
    run.handle.activate_full()
    meta = {"step": run.state.step}
    try:
        run.tracker.metrics.sync()
        save_checkpoint(
            run.dir.checkpoints,
            run.state.step,
            run.model,
            run.corpus.tokenizer,
            run.optimizer,
            run.state.as_json(),
            meta,
        )
        loop.saved_step = run.state.step
        boundaries = run.scheduler.transitions()
        retain(run.dir.checkpoints, train.keep_last, lambda step: step in boundaries or _every(step, train.keep_every))
        loop.failed_saves = 0
    except StorageError as error:
        loop.failed_saves += 1
        if loop.failed_saves >= MAX_FAILED_SAVES or not step_folders(run.dir.checkpoints):
            raise
        failed = "old checkpoints not removed" if loop.saved_step == run.state.step else "no checkpoint"
        run.progress.line(f"warning: {failed} at step {run.state.step}: {error}")


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
