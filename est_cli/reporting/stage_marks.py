"""The stages of the groups in a picture: behind the curves where all have the same, else a strip each above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from est_cli.reporting.drawing import GREY, MAX_TOLD, stage_shade
from est_cli.reporting.groups import Group
from est_cli.reporting.records import Span, stage_spans
from est_cli.reporting.runs import Axis

Placed = list[tuple[float, float, Span]]
"""Stages with where they begin and end along an axis."""
_THICK = 0.75
"""Of a strip, as a share of the room it has."""


def staged(groups: Sequence[Group], axis: Axis) -> dict[str, Placed]:
    """Label -> stages, of the groups that have more than one."""
    placed = {group.label: _placed(group, axis) for group in groups}
    return {label: spans for label, spans in placed.items() if len(spans) > 1}


def all_alike(stages: Mapping[str, Placed]) -> bool:
    """Whether one background serves all groups."""
    return len({tuple(f"{end:.3g}" for _, end, _ in spans) for spans in stages.values()}) == 1


def _placed(group: Group, axis: Axis) -> Placed:
    """As in the first run, at the mean of the seeds along the axis."""
    spans = stage_spans(group.drawn[0].train) if group.drawn else []
    if not spans:
        return []
    steps = np.array([spans[0].begin, *(span.end for span in spans)])
    x = np.mean([run.position(axis, steps) for run in group.drawn], axis=0)
    return [] if not np.isfinite(x).all() else list(zip(x[:-1], x[1:], spans, strict=True))


def shade(axes: Axes, spans: Placed) -> None:
    """The stages behind the curves, their numbers above the axes, dotted lines at the transitions."""
    for begin, end, span in spans:
        axes.axvspan(begin, end, facecolor=stage_shade(span.number, span.full), linewidth=0, zorder=0)
        if end < spans[-1][1]:
            axes.axvline(end, color=GREY, linestyle=(0, (1, 1.5)), linewidth=0.9, zorder=1)
        if len(spans) <= MAX_TOLD:
            text = str(span.number) if end - begin < 0.2 * spans[-1][1] else f"stage {span.number}"
            place = axes.get_xaxis_transform()
            axes.text((begin + end) / 2, 1.01, text, transform=place, ha="center", va="bottom", fontsize=7, color=GREY)


def draw_strips(axes: Axes, stages: Mapping[str, Placed], colors: Mapping[str, str]) -> None:
    """One strip per group from top to bottom, the darker the larger its subnetworks are."""
    axes.set_axis_off()
    axes.set_ylim(len(stages) - 0.5, -0.5)
    for number, (label, spans) in enumerate(stages.items()):
        for begin, end, span in spans:
            p_h, p_m, p_l = span.rates
            share = p_l * (p_h + p_m) / 2
            axes.barh(number, end - begin, _THICK, begin, color=colors[label], alpha=share, linewidth=0)
