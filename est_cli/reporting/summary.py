"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from est_cli.common.table import print_whole, table, table_console
from est_cli.reporting.stages import StageSummary, stage_summaries
from est_cli.tracking.records import FIELDS, Cell, Record

_LOSS = Cell("", ".4f")
_RATE = Cell("", ".3g")


def summary_table(summary: Record, stages: Sequence[StageSummary], run_dir: Path, plain: bool = False) -> Group:
    """The table at the end of a run: `summary` as in summary.json, the stages, the transitions and where things are."""
    parts: list[Table] = [table(["", ""], _run_rows(summary, run_dir), title="Run", words=[""], plain=plain)]
    if stages:
        parts.append(_stage_table(stages, plain))
    if summary.get("transitions"):
        parts.append(_transition_table(summary["transitions"], plain))
    if summary.get("diagnoses"):
        lines = [[line] for line in summary["diagnoses"]]
        title = "To look at (docs/schedulers.md)"
        parts.append(table([""], lines, title=title, words=[""], plain=plain))
    return Group(*parts)


def print_summary(summary: Record, metrics: Iterable[Record], run_dir: Path, console: Console | None = None) -> None:
    """Write the table to stdout, without frames where that is no terminal."""
    console = console or table_console()
    print_whole(console, summary_table(summary, stage_summaries(metrics), run_dir, plain=not console.is_terminal))


def _run_rows(summary: Record, run_dir: Path) -> list[list[str]]:
    rows: dict[str, str] = {}
    for field in FIELDS:
        if field.end is not None:
            heading = field.end.heading
            rows[heading] = rows.get(heading, "") + field.end.show(summary.get(field.name))
    lost = " and ".join(summary.get("not_finite", []))
    rows |= {"model": f"none: {lost} not finite" if lost else str(run_dir / "model"), "plots": str(run_dir / "plots")}
    return [[name, text] for name, text in rows.items()]


def _stage_table(stages: Sequence[StageSummary], plain: bool) -> Table:
    measured = any(stage.draw_spread is not None for stage in stages)
    drawn = any(stage.p_t is not None for stage in stages)
    rates = ["p_H", "p_M", "p_L"] + ["p_T"] * drawn
    headings = ["stage", *rates, "steps", "median step", "loss at its end"] + ["draw spread"] * measured
    rows = [
        [
            str(stage.number),
            *(f"{rate:.3g}" for rate in stage.rates),
            *[_RATE.show(stage.p_t)] * drawn,
            f"{stage.steps:,}",
            f"{stage.median_step_s * 1e3:.1f} ms",
            _LOSS.show(stage.loss),
            *[_LOSS.show(stage.draw_spread)] * measured,
        ]
        for stage in stages
    ]
    return table(headings, rows, title="Stages", plain=plain, fold=())


def _transition_table(transitions: Iterable[Record], plain: bool) -> Table:
    """Losses: means of a few steps on each side."""
    headings = ["step", "stages", "loss before", "loss after", "steps to recover", "val before"]
    rows = [
        [
            f"{change['step']:,}",
            f"{change['from_stage']} to {change['to_stage']}",
            *(_LOSS.show(change.get(key)) for key in ("mean_before", "mean_after")),
            _recovery(change),
            _LOSS.show(change.get("val_loss_before")),
        ]
        for change in transitions
    ]
    return table(headings, rows, title="Transitions", plain=plain, fold=())


def _recovery(change: Record) -> str:
    steps, losses = change.get("steps_to_recover"), (change.get("mean_before"), change.get("mean_after"))
    if steps is not None:
        return f"{steps:,}"
    return "-" if None in losses else "never"
