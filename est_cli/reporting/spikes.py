"""Signs of training that is not stable: steps whose loss jumps up, and evaluations at which the draws differ widely.

Both have one usual cause. Large outputs of two units cancel each other in the complete model, and a draw that keeps
only one of them is far off; a step that trains such a draw has a loss and a gradient that stand out. It may come and go
within a few steps, so that an evaluation sees it or not.

The thresholds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from est_cli.reporting.records import by_step, training_records
from est_cli.tracking.metrics import Record

RAN = ("stage", "p_h", "p_m", "p_l", "p_t")
"""Steps that agree in these are compared."""
WINDOW = 20
"""Logged losses before a step that it is compared with, ..."""
LEAST_WINDOW = 3
"""... and the least that are enough."""
CLOSE = 5
"""Records between two high losses of one spike at most."""
SPIKE_IN_NOISES = 6.0
"""A spike lies above their median by so many standard deviations of a single loss of the stage, ..."""
LEAST_SPIKE = 0.04
"""... and by this share of it, ..."""
LARGE_NORM = 3.0
"""... and its gradient norm is above so many times theirs: odd text has a high loss alone."""
DEVIATION_OF_DIFFERENCE = 1.4826 / math.sqrt(2)
"""The standard deviation of normal numbers over the median distance between two of them."""
FRAGILE_RANGE = 1.0
"""Nats per token between the best and the worst draw from which on an evaluation is told."""
SHOWN = 3
"""Of more spikes the largest are told one by one."""
SMOOTHER = "sampling.redraw=forward with a smaller train.micro_batch"
"""More draws in a step: what helped most where it was measured (docs/results/quickstart.md)."""


@dataclass(frozen=True)
class Spike:
    """A step whose loss stands out from those before it, in nats per token."""

    step: int
    loss: float
    usual: float
    """The median of the losses before it."""
    grad_norm: float | None

    @property
    def height(self) -> float:
        return self.loss - self.usual


def loss_spikes(metrics: Iterable[Record]) -> list[Spike]:
    """In order. A step is compared with those of its stage that ran as much of the model.

    So neither a transition's own jump is one, nor, where the number of layers is drawn, a step that ran few of them.
    """
    alike: dict[tuple[Any, ...], list[Record]] = {}
    for record in training_records(metrics):
        if record["loss"] is not None:
            alike.setdefault(tuple(record.get(key) for key in RAN), []).append(record)
    return sorted((spike for steps in alike.values() for spike in _spikes_of(steps)), key=lambda spike: spike.step)


def largest(spikes: Iterable[Spike], count: int) -> list[Spike]:
    """At most `count` of them, in the order of steps."""
    highest = sorted(spikes, key=lambda spike: spike.height, reverse=True)[:count]
    return sorted(highest, key=lambda spike: spike.step)


def instabilities(metrics: Sequence[Record]) -> list[str]:
    """Lines for the `diagnoses` of summary.json: loss spikes, then fragile draws."""
    return [*_told_spikes(loss_spikes(metrics)), *_told_draws(metrics)]


def _spikes_of(steps: Sequence[Record]) -> list[Spike]:
    """Of high losses that follow each other closely the highest."""
    found: list[Spike] = []
    usual: list[Record] = []
    noise, last = _noise(steps), 0
    for number, record in enumerate(steps):
        spike = _spike(record, usual[-WINDOW:], noise)
        if spike is None:
            usual.append(record)
            continue
        if found and number - last <= CLOSE:
            spike = max(found.pop(), spike, key=lambda each: each.height)
        found.append(spike)
        last = number
    return found


def _spike(record: Record, before: Sequence[Record], noise: float) -> Spike | None:
    if len(before) < LEAST_WINDOW:
        return None
    spike = Spike(record["step"], record["loss"], median(each["loss"] for each in before), record.get("grad_norm"))
    norms = [each["grad_norm"] for each in before if each.get("grad_norm") is not None]
    ordinary = spike.grad_norm is not None and norms and spike.grad_norm <= LARGE_NORM * median(norms)
    high = spike.height > max(SPIKE_IN_NOISES * noise, LEAST_SPIKE * spike.usual)
    return spike if high and not ordinary else None


def _noise(steps: Sequence[Record]) -> float:
    """Of a single loss, as a standard deviation: from neighbours, which neither a trend nor a few spikes move far."""
    distances = [abs(after["loss"] - before["loss"]) for before, after in pairwise(steps)]
    return DEVIATION_OF_DIFFERENCE * median(distances) if distances else 0.0


def _told_spikes(spikes: Sequence[Spike]) -> Iterator[str]:
    if spikes:
        shown = "; ".join(map(_describe, largest(spikes, SHOWN)))
        few = f", the largest {SHOWN}" if len(spikes) > SHOWN else ""
        yield (
            f"loss spikes: {len(spikes)}{few} at {shown}; a lower optim.lr helps, and where subnetworks are trained "
            f"{SMOOTHER}"
        )


def _describe(spike: Spike) -> str:
    norm = "" if spike.grad_norm is None else f", gradient norm {spike.grad_norm:.1f}"
    return f"step {spike.step} ({spike.loss:.2f} after {spike.usual:.2f}{norm})"


def _told_draws(metrics: Iterable[Record]) -> Iterator[str]:
    measured = by_step(record for record in metrics if record.get("draw_range") is not None)
    fragile = [record for record in measured if record["draw_range"] > FRAGILE_RANGE]
    if fragile:
        worst = max(fragile, key=lambda record: record["draw_range"])
        yield (
            f"fragile draws: at {len(fragile)} of {len(measured)} evaluations, most at step {worst['step']}, where the "
            f"losses of the draws differ by up to {worst['draw_range']:.2f} (standard deviation "
            f"{worst['draw_spread']:.2f}); {SMOOTHER} helps, or a lower optim.lr"
        )
