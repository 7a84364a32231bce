"""The picture of one plan or of several: rates and FLOPs over the run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from est_cli.planning.course import Point, column, course_of
from est_cli.planning.plan import Plan
from est_cli.reporting.drawing import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY, new_figure, png_of, step_axis, tidy
from est_cli.storage import disk

POINTS = 600
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY)
STYLES = ("-", "--", ":", "-.")


def draw_plans(plans: Mapping[str, Plan], path: Path) -> None:
    """Write the PNG `path`. Raises StorageError where it cannot be written, or is there already."""
    figure = new_figure(7.5, 6.5)
    above, below = figure.subplots(2, 1, sharex=True)
    if len(plans) == 1:
        [(label, plan)] = plans.items()
        figure.suptitle(f"{label}: {plan.ledger.saved_pct('blocks'):.2f} % of the block FLOPs saved", fontsize=11)
        _rates(above, course_of(plan, POINTS), plan.scheduler.draws_positions)
        _step_flops(below, course_of(plan, POINTS))
    else:
        _side_by_side(above, below, plans)
    step_axis(below)
    for axes in (above, below):
        tidy(axes)
        axes.set_ylim(bottom=0)
    png = png_of(figure)
    with disk.storage_errors(path):
        disk.write_file(path, png)


def _rates(axes: Axes, course: list[Point], draws_positions: bool) -> None:
    drawn = {"p_t": "$p_T$"} if draws_positions else {}
    _curves(axes, course, {"p_h": "$p_H$", "p_m": "$p_M$", "p_l": "$p_L$", **drawn})
    axes.set(ylabel="realised sampling rate")


def _step_flops(axes: Axes, course: list[Point]) -> None:
    _curves(axes, course, {"blocks": "blocks", "total": "total"})
    axes.set(ylabel="FLOPs of a step (dense: 1)")


def _curves(axes: Axes, course: list[Point], names: Mapping[str, str]) -> None:
    for (key, name), colour, style in zip(names.items(), COLOURS, STYLES, strict=False):
        look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.8}
        axes.plot(column(course, "step"), column(course, key), label=name, **look)
    axes.legend(fontsize=8, frameon=False)


def _side_by_side(above: Axes, below: Axes, plans: Mapping[str, Plan]) -> None:
    looks = zip(cycle(COLOURS), cycle(STYLES), strict=False)
    for (label, plan), (colour, style) in zip(plans.items(), looks, strict=False):
        course = course_of(plan, POINTS)
        look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 1.6}
        steps, blocks = column(course, "step"), np.array(column(course, "blocks"))
        above.plot(steps, blocks, label=label, **look)
        used = np.cumsum(blocks) * plan.scheduler.max_steps / POINTS
        below.plot(steps, used, **look)
    above.set(ylabel="block FLOPs of a step (dense: 1)")
    below.set(ylabel="block FLOPs so far (dense steps)")
    above.figure.suptitle("Plans side by side", fontsize=11)
    above.figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
