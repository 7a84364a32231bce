"""The stage boundaries of a sweep: final validation loss and saved FLOPs over (t1, t2), the number in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from est_cli.reporting.drawing import FAINT, new_figure
from est_cli.reporting.groups import Group, canonical

T1, T2 = "stage.t1", "stage.t2"
COLORS = "cividis"
"""Made to look the same with and without colour blindness."""
Boundary = int | float
"""As the configuration has it: an int is a step, a float a fraction of the run."""


@dataclass(frozen=True)
class Cell:
    """The mean of a group over its seeds."""

    t1: Boundary
    t2: Boundary
    loss: float
    saved_pct_blocks: float
    n: int


@dataclass(frozen=True)
class HeatMap:
    """Groups that differ in their two boundaries and in nothing else."""

    t1s: list[Boundary]
    t2s: list[Boundary]
    cells: list[Cell]
    steps: int

    def grid(self, key: str) -> np.ndarray:
        """(t2, t1), NaN where no run was."""
        values = np.full((len(self.t2s), len(self.t1s)), np.nan)
        for cell in self.cells:
            values[self.t2s.index(cell.t2), self.t1s.index(cell.t1)] = getattr(cell, key)
        return values


def heat_maps(groups: Sequence[Group]) -> list[HeatMap]:
    """One for each set of three-stage groups that are alike but for t1 and t2 and have at least three pairs of them."""
    alike: dict[str, list[Group]] = {}
    for group in groups:
        if group.setting["scheduler.name"] == "three_stage" and _cell(group) is not None:
            rest = {key: value for key, value in group.setting.items() if key not in (T1, T2)}
            alike.setdefault(canonical(rest), []).append(group)
    return [_heat_map(members) for members in alike.values() if len(members) >= 3]


def _heat_map(groups: Sequence[Group]) -> HeatMap:
    steps = groups[0].steps
    cells = [cell for cell in map(_cell, groups) if cell is not None]

    def step_of(boundary: Boundary) -> float:
        return boundary if isinstance(boundary, int) else boundary * steps

    t1s, t2s = (sorted({getattr(cell, key) for cell in cells}, key=step_of) for key in ("t1", "t2"))
    return HeatMap(t1s, t2s, cells, steps)


def _cell(group: Group) -> Cell | None:
    losses = [run.final_loss for run in group.counted if run.final_loss is not None]
    saved = [run.summary["flops_saved_pct_blocks"] for run in group.counted if run.summary]
    if not losses:
        return None
    return Cell(group.setting[T1], group.setting[T2], fmean(losses), fmean(saved), len(losses))


def heat_map_figure(heat_map: HeatMap) -> Figure:
    """Two panels: the loss (lower is better) and what was saved."""
    columns, rows = len(heat_map.t1s), len(heat_map.t2s)
    figure = new_figure(max(7.2, 2.4 + 1.0 * columns), max(2.6, 1.5 + 0.42 * rows))
    left, right = figure.subplots(1, 2)
    _panel(figure, left, heat_map, "loss", "final validation loss (nats)", f"{COLORS}_r", ".3f")
    _panel(figure, right, heat_map, "saved_pct_blocks", "FLOPs saved (blocks, %)", COLORS, ".1f")
    return figure


def _panel(figure: Figure, axes: Axes, heat_map: HeatMap, key: str, title: str, colors: str, form: str) -> None:
    values = heat_map.grid(key)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, origin="lower", aspect="auto")
    axes.set_facecolor("white")
    axes.set_xticks(range(len(heat_map.t1s)), [_shown(t) for t in heat_map.t1s])
    axes.set_yticks(range(len(heat_map.t2s)), [_shown(t) for t in heat_map.t2s])
    axes.set_xlabel("$t_1$ (first step of stage 2)", fontsize=9)
    axes.set_ylabel("$t_2$ (first step of stage 3)", fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        known = np.isfinite(value)
        style: dict[str, Any] = {"color": _readable_on(image.to_rgba(value)) if known else FAINT, "fontsize": 8}
        axes.text(column, row, format(value, form) if known else "-", ha="center", va="center", **style)
    bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)


def _readable_on(color: np.ndarray) -> str:
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _shown(boundary: Boundary) -> str:
    return f"{boundary:.4g}" if isinstance(boundary, float) else f"step {boundary}"
