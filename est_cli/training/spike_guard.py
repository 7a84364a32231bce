"""What a spike is while a run trains: a step whose loss and gradient norm both stand out from those before it.

A step is compared with the window of steps before it that are of its own stage, since a transition changes both numbers
by itself; by medians, which a few spikes do not move. Odd text has a high loss alone, an early step a large norm alone.
All steps enter the window, those too that were left out: where the numbers have risen for good, the run goes on once
they are half of it.

The window ends STALE steps before the step, on every device and whatever else is due: so that the limits are known when
the step is launched on a device that is read a step late, and a step is judged alike wherever the run was resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from est_cli.config import DEFAULT_SPIKE_THRESHOLD, DEFAULT_SPIKE_WINDOW, OnSpike

if TYPE_CHECKING:
    from est_cli.training.run import Run

STALE = 2
"""Step s is judged by the steps up to s - 2."""
LEAST_SHARE = 4
"""From a quarter of the window on a step is judged."""
DEVIATION_OF_MEDIAN = 1.4826
"""The standard deviation of normal numbers over the median of their distances from their median."""
LEAST_LOSS = 0.04
"""A spike's loss lies above the median by this share of it at least, ..."""
LEAST_NORM = 2.0
"""... and its gradient norm by this one, so that it is three times as large: as reporting/spikes.py has it."""


@dataclass(frozen=True)
class Limits:
    """What a step that is no spike stays below, in at least one of them."""

    loss: float
    grad_norm: float

    def exceeded(self, loss: float, grad_norm: float) -> bool:
        return loss > self.loss and grad_norm > self.grad_norm


def limits_at(run: Run, step: int) -> Limits | None:
    """Those of `step` (0-based); None where nobody asks or too few steps of its stage have been."""
    train, stage_at = run.config.train, run.scheduler.stage_at
    if train.on_spike is OnSpike.none:
        return None
    size, stage = train.spike_window or DEFAULT_SPIKE_WINDOW, stage_at(step)
    before = [row[1:] for row in run.state.recent if row[0] <= step - STALE and stage_at(int(row[0])) == stage]
    window = before[-size:]
    if len(window) < size // LEAST_SHARE:
        return None
    losses, norms = zip(*window, strict=True)
    threshold = train.spike_threshold or DEFAULT_SPIKE_THRESHOLD
    return Limits(_limit(losses, threshold, LEAST_LOSS), _limit(norms, threshold, LEAST_NORM))


def told_of(step: int, loss: float, grad_norm: float, limits: Limits) -> str:
    """A spike in `step` (0-based), for people."""
    norm = f"gradient norm {grad_norm:.3g} (limit {limits.grad_norm:.3g})"
    return f"spike at step {step + 1}: loss {loss:.4f} (limit {limits.loss:.4f}), {norm}"


def described(loss: float, grad_norm: float, limits: Limits) -> dict[str, float]:
    """The same for its record."""
    measured = {"spike_loss": loss, "spike_norm": grad_norm}
    return measured | {"loss_limit": limits.loss, "norm_limit": limits.grad_norm}


def remember(run: Run, step: int, loss: float, grad_norm: float) -> None:
    """Of `step`, whose numbers are finite: for the steps to come."""
    train = run.config.train
    if train.on_spike is not OnSpike.none:
        size = (train.spike_window or DEFAULT_SPIKE_WINDOW) + STALE - 1
        run.state.recent = [*run.state.recent, [step, loss, grad_norm]][-size:]


def _limit(values: Sequence[float], threshold: float, least: float) -> float:
    middle = median(values)
    deviation = DEVIATION_OF_MEDIAN * median(abs(value - middle) for value in values)
    return middle + max(threshold * deviation, least * middle)
