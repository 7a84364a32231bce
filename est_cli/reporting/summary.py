"""What a finished run tells at its end: the time it saved, and one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table

from est_cli.tracking.eta import hours_minutes
from est_cli.tracking.metrics import Record


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


def stage_summaries(metrics: Iterable[Record]) -> list[StageSummary]:
    """One entry per stage that ran, in order. Of several records of one step the last counts."""
    by_step = {record["step"]: record for record in metrics if "step_s" in record}
    groups: dict[int, list[Record]] = {}
    steps: dict[int, int] = {}
    before = 0
    for step, record in sorted(by_step.items()):
        groups.setdefault(record["stage"], []).append(record)
        steps[record["stage"]] = steps.get(record["stage"], 0) + step - before
        before = step
    return [_stage_summary(number, groups[number], steps[number]) for number in sorted(groups)]


def time_saved_pct(metrics: Iterable[Record]) -> float | None:
    """Percent of the step time saved against the same steps all at the full stage's median step time.

    Every step counts as its stage's median, so warm-up and hiccups do not matter. The full stage is the last one with
    all rates 1: an earlier one may have had dropout. None where no full stage ran.
    """
    stages = stage_summaries(metrics)
    full = [stage.median_step_s for stage in stages if stage.rates == (1.0, 1.0, 1.0)]
    if not full:
        return None
    full_s = full[-1]
    spent_s = sum(stage.steps * stage.median_step_s for stage in stages)
    return 100.0 * (1.0 - spent_s / (full_s * sum(stage.steps for stage in stages)))


def summary_table(summary: Record, stages: Sequence[StageSummary], run_dir: Path, plain: bool = False) -> Group:
    """The table at the end of a run: `summary` as in summary.json, the stages, the transitions and where things are."""
    parts = [_run_table(summary, run_dir, plain)]
    if stages:
        parts.append(_stage_table(stages, plain))
    if summary.get("transitions"):
        parts.append(_transition_table(summary["transitions"], plain))
    if summary.get("diagnoses"):
        parts.append(_diagnoses(summary["diagnoses"], plain))
    return Group(*parts)


def print_summary(summary: Record, metrics: Iterable[Record], run_dir: Path, console: Console | None = None) -> None:
    """Write the table to stdout, without frames where that is no terminal."""
    console = console or Console()
    table = summary_table(summary, stage_summaries(metrics), run_dir, plain=not console.is_terminal)
    console.print(table, highlight=False, soft_wrap=True)


def _stage_summary(number: int, records: list[Record], steps: int) -> StageSummary:
    p_h, p_m, p_l = (fmean(record[key] for record in records) for key in ("p_h", "p_m", "p_l"))
    tail = records[-min(20, 1 + len(records) // 10) :]
    losses = [record["loss"] for record in tail if record["loss"] is not None]
    return StageSummary(
        number=number,
        rates=(p_h, p_m, p_l),
        steps=steps,
        median_step_s=median(record["step_s"] for record in records),
        loss=sum(losses) / len(losses) if losses else None,
    )


def _run_table(summary: Record, run_dir: Path, plain: bool) -> Table:
    table = _table("Run", plain, "", "")
    blocks, total = _show(summary, "flops_saved_pct_blocks", ".2f"), _show(summary, "flops_saved_pct_total", ".2f")
    rows = {
        "steps": _show(summary, "steps", ","),
        "tokens": _show(summary, "tokens", ","),
        "final validation loss": _show(summary, "final_val_loss", ".4f"),
        "perplexity": _show(summary, "perplexity", ".2f"),
        "FLOPs (total)": f"{_show(summary, 'flops', '.3e')} of {_show(summary, 'flops_dense', '.3e')} dense",
        "FLOPs saved": f"{blocks} % blocks, {total} % total",
        "time": hours_minutes(summary.get("time_s")),
        "time saved": f"{_show(summary, 'time_saved_pct', '.2f')} % of the step time",
        "model": str(run_dir / "model"),
        "plots": str(run_dir / "plots"),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _stage_table(stages: Sequence[StageSummary], plain: bool) -> Table:
    table = _table("Stages", plain, "stage", "p_H", "p_M", "p_L", "steps", "median step", "loss at its end")
    for stage in stages:
        rates = [f"{rate:.3g}" for rate in stage.rates]
        loss = "-" if stage.loss is None else f"{stage.loss:.4f}"
        table.add_row(str(stage.number), *rates, f"{stage.steps:,}", f"{stage.median_step_s * 1e3:.1f} ms", loss)
    return table


def _transition_table(transitions: Iterable[Record], plain: bool) -> Table:
    """Losses: means of a few steps on each side."""
    table = _table(
        "Transitions", plain, "step", "stages", "loss before", "loss after", "steps to recover", "val before"
    )
    for change in transitions:
        stages = f"{change['from_stage']} to {change['to_stage']}"
        *losses, validation = (_show(change, key, ".4f") for key in ("mean_before", "mean_after", "val_loss_before"))
        table.add_row(f"{change['step']:,}", stages, *losses, _recovery(change), validation)
    return table


def _recovery(change: Record) -> str:
    steps, losses = change.get("steps_to_recover"), (change.get("mean_before"), change.get("mean_after"))
    if steps is not None:
        return f"{steps:,}"
    return "-" if None in losses else "never"


def _diagnoses(lines: Iterable[str], plain: bool) -> Table:
    table = _table("To look at (docs/schedulers.md)", plain, "")
    for line in lines:
        table.add_row(line)
    return table


def _table(title: str, plain: bool, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None if plain else box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if any(columns) else "left", no_wrap=True)
    return table


def _show(values: Record, key: str, form: str) -> str:
    value: Any = values.get(key)
    return "-" if value is None else format(value, form)
