"""The stage boundaries of a sweep: final validation loss and saved FLOPs over (t1, t2), the number in each cell.

Colours cover at least what seeds differ by: cells that differ by less have nearly the same colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure

from est_cli.reporting.drawing import FAINT, new_figure
from est_cli.reporting.groups import Group, canonical

T1, T2 = "stage.t1", "stage.t2"
COLORS = "cividis"
"""Made to look the same with and without colour blindness."""
NOISES = 4.0
"""Colours of the loss cover at least so many standard deviations of a cell's mean over its seeds, ..."""
LEAST_SPAN = 0.01
"""... or where no seeds tell of them, this share of the loss."""
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
class Noise:
    """How far final validation losses of different seeds lie apart, all else alike: the pooled standard deviation."""

    sd: float
    groups: int
    """Of how many groups of several seeds."""
    own: bool
    """Whether these are the map's own cells, and not other runs of the same model, data and length."""


@dataclass(frozen=True)
class HeatMap:
    """Groups that differ in their two boundaries and in nothing else."""

    t1s: list[Boundary]
    t2s: list[Boundary]
    cells: list[Cell]
    steps: int
    noise: Noise | None
    """None where nothing has several seeds."""

    @property
    def spread(self) -> float:
        """The highest loss less the lowest (nats per token)."""
        losses = [cell.loss for cell in self.cells]
        return max(losses) - min(losses)

    @property
    def told_apart(self) -> bool | None:
        """Whether cells differ by more than seeds alone let means differ; None where nobody knows."""
        return None if self.noise is None else self.spread > self._noise_span

    @property
    def limits(self) -> tuple[float, float]:
        """The losses at the ends of the colours."""
        losses = [cell.loss for cell in self.cells]
        least = LEAST_SPAN * abs(fmean(losses)) if self.noise is None else self._noise_span
        middle, half = (max(losses) + min(losses)) / 2, max(self.spread, least) / 2 or 0.5
        return middle - half, middle + half

    @property
    def _noise_span(self) -> float:
        assert self.noise is not None
        return NOISES * self.noise.sd / sqrt(min(cell.n for cell in self.cells))

    def in_words(self) -> str:
        """How far cells differ, and how far seeds do."""
        differ = f"Cells differ by up to {self.spread:.4f} nats per token"
        if self.noise is None:
            return (
                f"{differ}; how far seeds differ is not known: every cell has one seed. Colours cover 1 % of the loss."
            )
        of = "cells of this map" if self.noise.own else "other groups of this model and length"
        seeds = (
            f"seeds of one setting by {self.noise.sd:.4f} (standard deviation, pooled over {self.noise.groups} {of})"
        )
        if self.told_apart:
            return f"{differ}, {seeds}."
        return f"{differ}, {seeds}: this is within seed noise, and no cell is shown to be better."

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
    return [_heat_map(members, groups) for members in alike.values() if len(members) >= 3]


def _noise(groups: Sequence[Group], everything: Sequence[Group]) -> Noise | None:
    alike = [group for group in everything if group.family == groups[0].family and group.steps == groups[0].steps]
    for own, members in ((True, groups), (False, alike)):
        several = [losses for group in members if len(losses := _losses(group)) > 1]
        if several:
            degrees = sum(len(losses) - 1 for losses in several)
            pooled = sum((len(losses) - 1) * variance(losses) for losses in several) / degrees
            return Noise(sqrt(pooled), len(several), own)
    return None


def _losses(group: Group) -> list[float]:
    return [run.final_loss for run in group.counted if run.final_loss is not None]


def _heat_map(groups: Sequence[Group], everything: Sequence[Group]) -> HeatMap:
    steps = groups[0].steps
    cells = [cell for cell in map(_cell, groups) if cell is not None]

    def step_of(boundary: Boundary) -> float:
        return boundary if isinstance(boundary, int) else boundary * steps

    t1s, t2s = (sorted({getattr(cell, key) for cell in cells}, key=step_of) for key in ("t1", "t2"))
    return HeatMap(t1s, t2s, cells, steps, _noise(groups, everything))


def _cell(group: Group) -> Cell | None:
    losses = _losses(group)
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
    low, high = heat_map.limits if key == "loss" else (None, None)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, origin="lower", aspect="auto", vmin=low, vmax=high)
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


def page_panels(heat_map: HeatMap) -> list[dict[str, Any]]:
    """The two panels for the page: `rows` from the largest t2 down, of cells with their text, colour and ink."""
    panels = []
    for key, title, colors, form in (
        ("loss", "Final validation loss (nats per token)", f"{COLORS}_r", ".4f"),
        ("saved_pct_blocks", "FLOPs saved (blocks, %)", COLORS, ".1f"),
    ):
        values = heat_map.grid(key)
        norm = Normalize(*heat_map.limits) if key == "loss" else Normalize(np.nanmin(values), np.nanmax(values))
        shades = ScalarMappable(norm, colors)
        counts = heat_map.grid("n")
        rows = [
            [_page_cell(shades, value, n, form) for value, n in zip(row, row_n, strict=True)]
            for row, row_n in zip(values[::-1], counts[::-1], strict=True)
        ]
        t1s, t2s = [_shown(t) for t in heat_map.t1s], [_shown(t) for t in heat_map.t2s[::-1]]
        panels.append({"title": title, "t1s": t1s, "t2s": t2s, "rows": rows})
    return panels


def _page_cell(shades: ScalarMappable, value: float, n: float, form: str) -> dict[str, str] | None:
    if not np.isfinite(value):
        return None
    color = shades.to_rgba(np.array(value))
    ink = "#000" if _readable_on(color) == "black" else "#fff"
    return {"text": format(value, form), "fill": to_hex(color), "ink": ink, "n": f"{int(n)}"}


def _readable_on(color: np.ndarray) -> str:
    red, green, blue = color[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _shown(boundary: Boundary) -> str:
    return f"{boundary:.4g}" if isinstance(boundary, float) else f"step {boundary}"
