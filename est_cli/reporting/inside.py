"""Inside of a run, for the page: stages, transitions, coverage, draws, layers, samples, diagnoses, scores, analyses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from est_cli.reporting.beside import analyses_of, analysis_rows, is_number, scores_of
from est_cli.reporting.curves import plain, thinned
from est_cli.reporting.groups import Group
from est_cli.reporting.layers import layer_grids
from est_cli.reporting.records import Record, by_step, column
from est_cli.reporting.runs import RunRecord
from est_cli.reporting.stages import described_transitions, stage_summaries

MAX_RUNS, MAX_COLUMNS, MAX_SAMPLES, MAX_TEXT, MAX_ROWS = 24, 200, 5, 2000, 200
"""Runs that are shown inside, points of a picture there, samples of a run (the newest), signs of one, rows."""


def insides(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Of each group a run, then the others, MAX_RUNS in all."""
    firsts = [group.drawn[0] for group in groups if group.drawn]
    others = [run for group in groups for run in group.runs if run not in firsts]
    return [inside(run) for run in [*firsts, *others][:MAX_RUNS]]


def inside(run: RunRecord) -> dict[str, Any]:
    """`tables`: title, headings, rows; `lines` and `grids`: pictures for the script; the rest is text."""
    folder, summary = Path(run.name), run.summary or {}
    analyses = analyses_of(folder)
    tables = [*_tables(run), *_scores(folder)]
    tables += [(f"Analysis: {name}", ["", "value"], rows) for name, one in analyses
               if (rows := analysis_rows(one.get("result")))]  # fmt: skip
    said = summary.get("diagnoses")
    return {
        "name": run.name,
        "about": f"seed {run.config.seed}, step {run.steps:,} of {run.planned_steps:,}",
        "diagnoses": [line[:MAX_TEXT] for line in said[:MAX_ROWS] if isinstance(line, str)]
        if isinstance(said, list)
        else [],
        "tables": tables,
        "samples": _samples(run.metrics),
        "lines": [*_draws(run), *_flatness(analyses)],
        "grids": [{"steps": plain(steps), **grid} for steps, grids in _layers(run.layers) for grid in grids],
    }


def _tables(run: RunRecord) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    stages = stage_summaries(run.metrics)
    if len(stages) > 1:
        drawn = any(stage.p_t is not None for stage in stages)
        rates = ["p_H", "p_M", "p_L"] + ["p_T"] * drawn
        headings = ["stage", *rates, "steps", "median step", "loss at its end", "draw spread"]
        yield "Stages", headings, [
            [str(stage.number), *(f"{rate:.3g}" for rate in stage.rates), *[_shown(stage.p_t, ".3g")] * drawn,
             f"{stage.steps:,}", f"{1e3 * stage.median_step_s:.1f} ms", _shown(stage.loss), _shown(stage.draw_spread)]
            for stage in stages
        ]  # fmt: skip
    changes = described_transitions(run.metrics)[:MAX_ROWS]
    if changes:
        headings = ["step", "stages", "loss before", "loss after", "steps to recover", "val before", "val after"]
        yield "Transitions", headings, [
            [f"{change['step']:,}", f"{_shown(change.get('from_stage'), 'd')} to {_shown(change.get('to_stage'), 'd')}",
             _shown(change["mean_before"]), _shown(change["mean_after"]), _shown(change["steps_to_recover"], ",d"),
             _shown(change["val_loss_before"]), _shown(change["val_loss_after"])]
            for change in changes
        ]  # fmt: skip
    yield from _coverage((run.summary or {}).get("coverage"))


def _coverage(found: Any) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Share of the steps (0-1) in which layers, heads and columns were trained."""
    if not isinstance(found, dict):
        return
    layers = found.get("layers")
    rows = [
        [f"layer {n}", _shown(x, ".3f"), "", ""]
        for n, x in enumerate(layers[:MAX_ROWS] if isinstance(layers, list) else [])
    ]
    for kind in ("heads", "columns"):
        spread = found.get(kind)
        if isinstance(spread, dict):
            rows.append([f"all {kind}", *(_shown(spread.get(key), ".3f") for key in ("mean", "min", "max"))])
    if rows:
        yield "Share of the steps trained", ["", "mean", "least", "most"], rows


def _scores(folder: Path) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    found = scores_of(folder)
    if found is not None:
        yield "Scores", *found


def _samples(metrics: Sequence[Record]) -> list[tuple[int, str]]:
    """Step and text of the newest samples, the newest first."""
    found = by_step(record for record in metrics if record.get("event") == "sample")
    texts = [(int(record["step"]), record["text"]) for record in found if isinstance(record.get("text"), str)]
    return [(step, text[:MAX_TEXT]) for step, text in texts[: -MAX_SAMPLES - 1 : -1]]


def _draws(run: RunRecord) -> Iterator[dict[str, Any]]:
    records = by_step(record for record in run.validation if record.get("draw_spread") is not None)
    if len(records) > 1:
        kept = thinned(column(records, "draw_spread"), MAX_COLUMNS)
        yield {
            "title": "Loss of subnetworks drawn at the same step: standard deviation and range (nats per token)",
            "x": plain(column(records, "step")[kept]),
            "x_name": "optimizer step",
            "series": [
                {"name": name, "y": plain(column(records, key)[kept])}
                for name, key in (("standard deviation", "draw_spread"), ("range", "draw_range"))
                if all(key in record for record in records)
            ],
        }


def _flatness(analyses: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    for name, content in analyses:
        result = content.get("result")
        x, y = (result.get(key) if isinstance(result, dict) else None for key in ("places", "mean"))
        if isinstance(x, list) and isinstance(y, list) and len(x) == len(y) <= MAX_COLUMNS and all(map(is_number, x)):
            loss = [value if is_number(value) else None for value in y]
            title = f"{name}: mean loss (nats per token) along filter-normalised directions"
            yield {"title": title, "x": x, "x_name": "distance", "series": [{"name": "mean loss", "y": loss}]}


def _layers(records: Sequence[Record]) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Steps, and of each thing that is measured its values: a list for each layer."""
    if not records:
        return
    kept = np.unique(np.linspace(0, len(records) - 1, min(len(records), MAX_COLUMNS)).astype(int))
    chosen = [records[index] for index in kept]
    yield (
        column(chosen, "step"),
        [
            {"title": name, "log": logarithmic, "values": [plain(row) for row in values]}
            for name, values, logarithmic in layer_grids(chosen)
        ],
    )


def _shown(value: Any, form: str = ".4f") -> str:
    if not is_number(value):
        return "-"
    return format(int(value) if form.endswith("d") else value, form)
