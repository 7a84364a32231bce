"""What all pictures share: colours, sizes, grid, ticks, legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from est_cli.storage.disk import storage_errors

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#4D4D4D"
"""From the palette of Okabe and Ito; lines differ in style or marker too, for prints without colour."""
PINK, AMBER, SKY = "#CC79A7", "#E69F00", "#56B4E9"
"""The rest of the palette but for its yellow, which is hard to see on white."""
FAINT = "#B0B0B0"
SHADES = ("#DCE6F0", "#EEF3F8", "#FFFFFF")
"""Background of the stages, from the smallest subnetwork to the full model."""
DPI = 160
MAX_SHOWN = 8
"""Stages, or groups of runs, that are told apart in a picture."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches, without pyplot: nothing global is touched and nothing stays in memory."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_pictures(figures: Mapping[str, Figure], folder: Path) -> None:
    """Each as a file of this name in `folder` (made if missing). StorageError that names it if the disk refuses."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        data = png_of(figure)
        with storage_errors(folder / name):
            (folder / name).write_bytes(data)


def png_of(figure: Figure, dpi: int = DPI) -> bytes:
    """The picture as the content of a file, since matplotlib would tell of a full disk without the file's name."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=dpi)
    return data.getvalue()


def tidy(axes: Axes) -> None:
    """A faint grid, and no frame above and to the right."""
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def step_axis(axes: Axes) -> None:
    """Steps along the bottom: whole numbers with thousands set off."""
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def labelled(all_axes: Sequence[Axes]) -> dict[str, Any]:
    """Label -> handle, of everything that has a label."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    return entries


def legend_below(figure: Figure, entries: Mapping[str, Any], columns: int) -> None:
    """One legend below everything, where it hides nothing."""
    style: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": 8, "frameon": False}
    figure.legend(list(entries.values()), list(entries), **style)


def stage_shade(number: int, full: bool) -> str:
    """The background of a stage."""
    return SHADES[-1] if full else SHADES[min(number, 2) - 1]


def plain_text(text: str) -> str:
    """`text` as matplotlib has to be given it to show it letter by letter."""
    return text.replace("$", r"\$")
