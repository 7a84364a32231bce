"""The records of training steps: numbers of one step, and speed since the record before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from est_cli.config import OnSpike
from est_cli.distributed.device import allocator_record, peak_memory_gb
from est_cli.distributed.hardware import peak_flop_per_s
from est_cli.est.sizes import realised_p_t, realised_rates
from est_cli.training.run import Run
from est_cli.training.step import StepNumbers, StepResult


@dataclass
class Window:
    """Steps and their seconds since the last record; a record's step time is the mean over them."""

    steps: int = 0
    step_s: float = 0.0
    flops: int = 0
    tokens: int = 0
    waited_s: float = 0.0
    """For text that was not tokenised yet, in no step's time."""

    def add(self, seconds: float, flops: int, tokens: int) -> None:
        self.steps, self.step_s = self.steps + 1, self.step_s + seconds
        self.flops, self.tokens = self.flops + flops, self.tokens + tokens

    @property
    def tokens_per_s(self) -> float:
        """Of all processes."""
        return self.tokens / self.step_s


def step_record(run: Run, window: Window, step: int, result: StepResult, numbers: StepNumbers) -> dict[str, Any]:
    """What metrics.jsonl holds of step `step` (0-based), the last of the window."""
    peak = peak_flop_per_s(run.accelerator.device, run.precision)
    seq_len, draws_positions = run.batch.at(step).seq_len, run.scheduler.draws_positions
    return {
        "step": step + 1,
        "tokens": run.batch.tokens_before(step + 1),
        "stage": run.scheduler.stage_at(step),
        **vars(realised_rates(run.spec, result.ran)),
        **({"p_t": realised_p_t(result.ran, seq_len)} if draws_positions else {}),
        "loss": numbers.loss,
        "lr": result.lr,
        "grad_norm": numbers.grad_norm,
        **run.totals(),
        "tokens_per_s": window.tokens_per_s,
        "step_s": window.step_s / window.steps,
        **({} if run.supply is None else {"text_wait_s": window.waited_s}),
        **({"passed_samples": run.reading.passed_by(step)} if run.config.train.on_spike is OnSpike.rewind else {}),
        "mfu": None if peak is None else window.flops / window.step_s / (peak * run.rank.world_size),
        "mem_gb": peak_memory_gb(run.accelerator.device),
        **allocator_record(run.accelerator.device),
    }


def record_transition(run: Run, step: int, loss_before: float | None, loss_after: float) -> None:
    """The first step of a new stage is done: its loss beside that of the step before."""
    old, new = run.scheduler.stage_at(step - 1), run.scheduler.stage_at(step)
    losses = {"loss_before": loss_before, "loss_after": loss_after}
    run.tracker.transition({"step": step + 1, "from_stage": old, "to_stage": new, **losses})
    before = "?" if loss_before is None else f"{loss_before:.4f}"
    run.progress.line(f"stage {old} -> {new} at step {step + 1}: loss {before} -> {loss_after:.4f}")
