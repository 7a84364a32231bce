"""How much the loss depends on which subnetwork is drawn, as measured at an evaluation.

A step shows the loss of one draw. Where units of the model cancel each other, the draws that keep one of them and not
the other are worth far less than the rest, which no single step tells and the complete model does not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from statistics import pstdev

import torch

from est_cli.est import Subnetwork
from est_cli.est.hashing import hash_numbers
from est_cli.training.run import Run
from est_cli.training.validation import validation_loss

SPREAD = 0x5D
"""Sets these draws apart from everything else that is drawn from the seed."""


def draw_spread(run: Run) -> dict[str, float]:
    """`draw_spread` and `draw_range` (see tracking/records.py) at the present step; empty where nothing is sampled.

    All processes call it. Another subnetwork is active when it returns; nothing else of the run has changed.
    """
    losses = _losses(run)
    if not losses:
        return {}
    if not all(map(math.isfinite, losses)):
        return {"draw_spread": math.nan, "draw_range": math.nan}
    return {"draw_spread": pstdev(losses), "draw_range": max(losses) - min(losses)}


def _losses(run: Run) -> list[float]:
    """The mean loss of each draw, over all processes."""
    sums: list[float] = []
    # A few sequences pay for no graph of their own.
    with torch.compiler.set_stance("force_eager") if run.compiled else nullcontext():
        for subnetwork in _subnetworks(run):
            run.handle.activate(subnetwork)
            batches = run.validation_batches(run.config.train.spread_tokens)
            sums.extend(validation_loss(run.objective, batches, run.autocast))
    sums = run.group.sum(sums) if sums else []
    return [total / count for total, count in zip(sums[::2], sums[1::2], strict=True)]


def _subnetworks(run: Run) -> Iterator[Subnetwork]:
    """A function of the seed and the step, the same in all processes; no step trains these draws."""
    step = run.state.step
    rates = run.scheduler.rates_at(max(0, step - 1))
    if not rates.sampled:
        return
    generator = replace(run.generator, seed=hash_numbers((run.config.seed, SPREAD, step)))
    for number in range(run.config.train.spread_draws):
        yield generator.draw(number, rates)
