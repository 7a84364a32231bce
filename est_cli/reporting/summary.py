"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table

from est_cli.reporting.stages import StageSummary, stage_summaries
from est_cli.tracking.eta import hours_minutes
from est_cli.tracking.metrics import Record


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
