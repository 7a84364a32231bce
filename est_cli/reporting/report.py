"""From run folders to a folder with the page, its pictures and its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from est_cli.common.errors import ConfigError
from est_cli.reporting.answer import answers_of
from est_cli.reporting.claim import NEAR, claims_of
from est_cli.reporting.compare_figures import NAMES, loss_figure
from est_cli.reporting.curves import page_curves
from est_cli.reporting.drawing import MAX_SHOWN, plain_text, png_of
from est_cli.reporting.expected import with_predictions
from est_cli.reporting.groups import Group, group_runs
from est_cli.reporting.heat_map import HeatMap, heat_map_figure, heat_maps, page_panels
from est_cli.reporting.inside import insides
from est_cli.reporting.layers import layers_figure
from est_cli.reporting.numbers import NOT_COUNTED, all_numbers
from est_cli.reporting.page import Drawn, page
from est_cli.reporting.runs import Axis, find_runs, read_run
from est_cli.reporting.speed import SAME_SPEED
from est_cli.storage import disk
from est_cli.storage.run_dir import check_place

PAGE, NUMBERS = "report.html", "report.json"
MAX_LAYERS = 4
"""Groups whose layers' health is drawn."""
DPI = 300
"""Of pictures that go into a paper."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path
    numbers: dict[str, Any]
    commands: list[str]
    """For a terminal: what to run for what its answers lack, with the places of files."""


def make_report(folders: Sequence[Path], out: Path, title: str, prices: str | None = None) -> Report:
    """Write report.html, report.json and a PNG for each figure into `out`, a new or empty folder.

    `prices`: the folder of prices that say what was expected of the runs.
    ConfigError for folders without runs and for an `out` that is in use; CheckpointError and StorageError for files of
    runs that cannot be read, StorageError for a disk that refuses the report.
    """
    refuse_used(out)
    groups = group_runs([read_run(folder) for folder in find_runs(folders)])
    if not any(run.metrics for group in groups for run in group.runs):
        raise ConfigError(f"{folders[0]}: no run has recorded anything yet; wait for its first steps")
    check_place(out)
    maps = heat_maps(groups)
    made = f"{datetime.now():%Y-%m-%d %H:%M}"
    claims = claims_of(groups) if prices is None else with_predictions(claims_of(groups), prices)
    numbers = all_numbers(title, made, groups, claims, maps)
    commands = [command for answer in answers_of(groups, claims) for command in answer.commands]
    figures = [(name, png_of(figure, DPI), caption) for name, figure, caption in _figures(groups, maps)]
    files = [(name, caption) for name, _, caption in figures]
    text = page(numbers, files, notes(numbers, groups), drawn_on_page(groups, maps))
    with disk.storage_errors(out):  # only now: a killed report leaves no folder
        out.mkdir(parents=True, exist_ok=True)
    for name, png, _ in figures:
        disk.replace_file(out / name, png)
    disk.replace_file(out / NUMBERS, (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())
    disk.replace_file(out / PAGE, text.encode())
    return Report(out / PAGE, numbers, list(dict.fromkeys(commands)))


def drawn_on_page(groups: Sequence[Group], maps: Sequence[HeatMap]) -> Drawn:
    """What the page's script and tables draw."""
    panels = [(page_panels(heat_map), _about_map(heat_map), heat_map.in_words()) for heat_map in maps]
    return Drawn(page_curves(groups), panels, insides(groups))


def refuse_used(out: Path) -> None:
    """ConfigError unless `out` is not there or is an empty folder: no report overwrites anything."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out: {out} is there already and is never overwritten; choose another folder")


def _figures(groups: Sequence[Group], maps: Sequence[HeatMap]) -> Iterator[tuple[str, Figure, str]]:
    """File name, figure, caption."""
    for axis, name in NAMES.items():
        figure = loss_figure(groups, axis)
        if figure is not None:
            yield f"loss-{axis.value.replace('_', '-')}.png", figure, _caption(groups, axis, name)
    for number, heat_map in enumerate(maps, start=1):
        caption = f"{_about_map(heat_map)} {heat_map.in_words()}"
        yield f"heat-map-{number}.png", heat_map_figure(heat_map), caption
    yield from _layers(groups)


def _about_map(heat_map: HeatMap) -> str:
    about = f"Final validation loss and FLOPs saved over the stage boundaries, runs of {heat_map.steps:,} steps"
    counts = sorted({cell.n for cell in heat_map.cells})
    seeds = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return f"{about}; mean of {seeds} seed(s) in each cell, brighter is better."


def _layers(groups: Sequence[Group]) -> Iterator[tuple[str, Figure, str]]:
    """Of each of the first groups a run that has measured its layers."""
    firsts = [next((run for run in group.runs if run.layers), None) for group in groups]
    for number, run in enumerate([run for run in firsts if run is not None][:MAX_LAYERS], start=1):
        about = "gradient norms, updates relative to the weights, activations, share of the steps trained"
        caption = f"Each layer's health in {run.name}: {about}. Grey: the layer did not run in that step."
        yield f"layers-{number}.png", layers_figure(run.layers, plain_text(run.name)), caption


def _caption(groups: Sequence[Group], axis: Axis, name: str) -> str:
    sizes = sorted({len(group.drawn) for group in groups})
    lines = [f"Training loss (running mean) and validation loss (complete model) against {name}."]
    if sizes[-1] >= 3:
        lines.append(
            "Lines: mean over seeds; bands: 95 % t interval of the mean" + (" (n = 2: range)." if 2 in sizes else ".")
        )
    elif sizes[-1] == 2:
        lines.append("Lines: mean over seeds; bands: range of the two seeds.")
    else:
        lines.append("One seed per group.")
    if axis is Axis.seconds:
        lines.append("Evaluation and saving are left out.")
    if len(groups) > MAX_SHOWN:
        lines.append(f"{len(groups) - MAX_SHOWN} groups beyond the first {MAX_SHOWN} are grey.")
    return " ".join(lines)


def notes(numbers: dict[str, Any], groups: Sequence[Group]) -> list[str]:
    """How the numbers were made, and which runs are not in them."""
    lines = [
        "FLOPs: three times the forward pass of what really ran. Blocks: the projections inside the layers "
        "(the paper's convention); total: also the LM head and the attention products.",
        "Time: seconds of training steps alone; evaluation, checkpoints and start-up are left out. Time saved: "
        "against the same steps at the full stage's median step time of the same run.",
        "Stages: shaded behind the curves where all groups have the same, else a strip per group above them, darker "
        "for higher sampling rates.",
        "Differences: group minus dense, paired by seed where seeds agree; interval: Student's t, 95 %. An interval "
        "that holds 0 does not show that the losses are equal: its ends say how far apart they may be.",
        "Equal FLOPs and equal time, read on the way: the dense twin's validation loss on a straight line between its "
        f"evaluations. Dense run of that length: within {100 * NEAR[Axis.flops_total]:.0f} % of the FLOPs, "
        f"{100 * NEAR[Axis.seconds]:.0f} % of the time. Time is compared only where a step of the complete model took "
        f"as long in all runs, within {100 * SAME_SPEED:.0f} %.",
    ]
    rows = [row["difference"] for card in numbers["claims"] for row in card["comparisons"]]
    tests = sum(found is not None and found["low"] is not None for found in rows)
    if tests > 1:
        lines.append(f"Of {tests} such intervals about 1 in 20 excludes 0 by chance.")
    unfinished = [run.name for group in groups for run in group.runs if not run.finished]
    if unfinished:
        lines.append(f"Not finished, so in no mean and no claim: {', '.join(unfinished)}.")
    forked = [f"{run.name} ({run.config.fork})" for group in groups for run in group.runs if run.config.fork]
    if forked:
        lines.append(f"Begun from a checkpoint of another run, whose steps, FLOPs and time count: {', '.join(forked)}.")
    repeated = [row["run"] for row in numbers["runs"] if row["status"] == NOT_COUNTED]
    if repeated:
        lines.append(f"Repeats of a seed that its group has already, left out: {', '.join(repeated)}.")
    return lines
