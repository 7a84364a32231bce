"""What a run's records say of its stages: steps, speed and loss of each, the time saved, the loss around transitions.

A single step's loss says little: beside it stand means of the NEAR logged losses before and after the transition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean, median

from est_cli.reporting.records import by_step
from est_cli.tracking.metrics import Record

NEAR = 5
"""Logged losses on each side of a transition."""


@dataclass(frozen=True)
class StageSummary:
    """What the records tell of one stage."""

    number: int
    rates: tuple[float, float, float]
    """p_H, p_M, p_L: the mean, where they differ from step to step."""
    steps: int
    """Steps the records stand for: with `train.log_every` n, each stands for the n since the one before."""
    median_step_s: float
    loss: float | None
    """Training loss at the end of the stage: the mean of its last tenth of records, at most 20."""
    draw_spread: float | None = None
    """The largest at its evaluations; None where it was not measured."""
    p_t: float | None = None
    """The share of its predictions that a loss is the mean of; None in runs that draw none."""

    @property
    def full(self) -> bool:
        """Whether its steps are those of dense training."""
        return min(self.rates) == 1.0 and self.p_t in (None, 1.0)


def stage_summaries(metrics: Iterable[Record]) -> list[StageSummary]:
    """One entry per stage that ran, in order. Of several records of one step the last counts."""
    metrics = list(metrics)
    groups: dict[int, list[Record]] = {}
    steps: dict[int, int] = {}
    before = 0
    for record in by_step(record for record in metrics if "step_s" in record):
        groups.setdefault(record["stage"], []).append(record)
        steps[record["stage"]] = steps.get(record["stage"], 0) + record["step"] - before
        before = record["step"]
    spreads = by_step(record for record in metrics if record.get("draw_spread") is not None)
    return [_stage_summary(number, groups[number], steps[number], spreads) for number in sorted(groups)]


def time_saved_pct(metrics: Iterable[Record]) -> float | None:
    """Percent of the step time saved against the same steps all at the full stage's median step time.

    Every step counts as its stage's median, so warm-up and hiccups do not matter. The full stage is the last one with
    all rates 1: an earlier one may have had dropout. None where no full stage ran.
    """
    stages = stage_summaries(metrics)
    full = [stage.median_step_s for stage in stages if stage.full]
    if not full:
        return None
    full_s = full[-1]
    spent_s = sum(stage.steps * stage.median_step_s for stage in stages)
    return 100.0 * (1.0 - spent_s / (full_s * sum(stage.steps for stage in stages)))


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
    """The stages as summary.json has them; `val_loss` is the last one in the stage, of the complete model.

    It is None where that one was not finite, whatever those before it were.
    """
    validation = by_step(record for record in metrics if "val_loss" in record)
    stage_rows, begin = [], 0
    for stage in stages:
        end = begin + stage.steps
        inside = [record["val_loss"] for record in validation if begin < record["step"] <= end]
        rates = dict(zip(("p_h", "p_m", "p_l"), stage.rates, strict=True))
        rates |= {} if stage.p_t is None else {"p_t": stage.p_t}
        last = {"loss": stage.loss, "val_loss": inside[-1] if inside else None, "draw_spread": stage.draw_spread}
        stage_rows.append(
            {"stage": stage.number, "steps": stage.steps, **rates, "median_step_s": stage.median_step_s, **last}
        )
        begin = end
    return stage_rows


def _stage_summary(number: int, records: list[Record], steps: int, spreads: Sequence[Record]) -> StageSummary:
    p_h, p_m, p_l = (fmean(record[key] for record in records) for key in ("p_h", "p_m", "p_l"))
    drawn = [record["p_t"] for record in records if "p_t" in record]
    tail = records[-min(20, 1 + len(records) // 10) :]
    losses = [record["loss"] for record in tail if record["loss"] is not None]
    begin, end = records[0]["step"], records[-1]["step"]
    return StageSummary(
        number=number,
        rates=(p_h, p_m, p_l),
        steps=steps,
        median_step_s=median(record["step_s"] for record in records),
        loss=sum(losses) / len(losses) if losses else None,
        draw_spread=max((r["draw_spread"] for r in spreads if begin <= r["step"] <= end), default=None),
        p_t=fmean(drawn) if drawn else None,
    )


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
