"""What a run's records tell of its stage transitions: the loss around each, and how long it took to come back.

A single step's loss says little: beside it stand means of the NEAR logged losses before and after the transition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean

from est_cli.reporting.summary import StageSummary
from est_cli.tracking.metrics import Record

NEAR = 5
"""Logged losses on each side of a transition."""


def described_transitions(metrics: Iterable[Record]) -> list[Record]:
    """The stage_transition records, each with:

    - `mean_before`, `mean_after`: of the training losses next to it (nats per token), inside of the two stages
    - `noise`: how far these means would differ by chance, as a standard error
    - `steps_to_recover`: 0 where the loss did not rise, else the steps until a mean of as many losses is back at
      `mean_before`; None where it never was, or no loss is known
    - `val_loss_before`, `val_loss_after`: the nearest validation losses of the complete model
    """
    metrics = list(metrics)
    train = _by_step(metrics, "loss")
    validation = _by_step(metrics, "val_loss")
    changes = {record["step"]: record for record in metrics if record.get("event") == "stage_transition"}
    return [{**changes[step], **_around(changes[step], train, validation)} for step in sorted(changes)]


def described_stages(stages: Sequence[StageSummary], metrics: Iterable[Record]) -> list[Record]:
    """The stages as summary.json has them; `val_loss` is the last one in the stage, of the complete model."""
    validation = _by_step(metrics, "val_loss")
    told, begin = [], 0
    for stage in stages:
        end = begin + stage.steps
        inside = [record["val_loss"] for record in validation if begin < record["step"] <= end]
        rates = dict(zip(("p_h", "p_m", "p_l"), stage.rates, strict=True))
        last = {"loss": stage.loss, "val_loss": inside[-1] if inside else None}
        told.append(
            {"stage": stage.number, "steps": stage.steps, **rates, "median_step_s": stage.median_step_s, **last}
        )
        begin = end
    return told


def _around(change: Record, train: Sequence[Record], validation: Sequence[Record]) -> Record:
    step, old = change["step"], change["from_stage"]
    before = [record["loss"] for record in train if record["step"] < step and record["stage"] == old][-NEAR:]
    later = [record for record in train if record["step"] >= step]
    after = [record["loss"] for record in later if record["stage"] == change["to_stage"]][:NEAR]
    known = bool(before and after)
    return {
        "mean_before": fmean(before) if before else None,
        "mean_after": fmean(after) if after else None,
        "noise": _noise(before, after) if known else None,
        "steps_to_recover": _steps_to_recover(step, fmean(before), later, len(after)) if known else None,
        "val_loss_before": next((r["val_loss"] for r in reversed(validation) if r["step"] < step), None),
        "val_loss_after": next((r["val_loss"] for r in validation if r["step"] >= step), None),
    }


def _steps_to_recover(step: int, level: float, later: Sequence[Record], width: int) -> int | None:
    for end in range(width, len(later) + 1):
        if fmean(record["loss"] for record in later[end - width : end]) <= level:
            return 0 if end == width else int(later[end - 1]["step"]) - step + 1
    return None


def _noise(before: Sequence[float], after: Sequence[float]) -> float:
    """From the differences of neighbouring losses, which a trend hardly enters."""
    squares = [(b - a) ** 2 / 2 for losses in (before, after) for a, b in pairwise(losses)]
    return sqrt(fmean(squares) * (1 / len(before) + 1 / len(after))) if squares else 0.0


def _by_step(metrics: Iterable[Record], key: str) -> list[Record]:
    """The records that have `key`, in the order of steps; of several of one step the last."""
    last = {record["step"]: record for record in metrics if record.get(key) is not None and "event" not in record}
    return [last[step] for step in sorted(last)]
