"""Loss of several groups of runs along steps, tokens, FLOPs or seconds: training loss on the left, validation right.

Their stages stand behind the curves where all groups have the same, else a strip for each group above them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from est_cli.reporting.drawing import (
    AMBER,
    BLUE,
    FAINT,
    GREEN,
    GREY,
    MAX_SHOWN,
    ORANGE,
    PINK,
    SKY,
    legend_below,
    new_figure,
    plain_text,
    stage_shade,
    step_axis,
    tidy,
)
from est_cli.reporting.groups import Curve, Group, training_curve, validation_curve
from est_cli.reporting.records import Span, stage_spans
from est_cli.reporting.runs import Axis

NAMES = {
    Axis.steps: "optimizer step",
    Axis.tokens: "training tokens",
    Axis.flops_total: "training FLOPs, total",
    Axis.flops_blocks: "training FLOPs, blocks",
    Axis.seconds: "time in training steps",
}
_COUNTS = ((2e9, 1e9, "billions"), (2e6, 1e6, "millions"), (2e3, 1e3, "thousands"), (0, 1, ""))
_AMOUNTS = (*((2 * 10**power, 10**power, f"{prefix}FLOP") for power, prefix in ((21, "Z"), (18, "E"), (15, "P"),
            (12, "T"), (9, "G"), (6, "M"))), (0, 1, "FLOP"))  # fmt: skip
_TIMES = ((3 * 3600, 3600, "h"), (600, 60, "min"), (0, 1, "s"))
_UNITS = {Axis.tokens: _COUNTS, Axis.flops_total: _AMOUNTS, Axis.flops_blocks: _AMOUNTS, Axis.seconds: _TIMES}
"""From where on an axis is in a larger unit, how large that is, and its name."""
WIDTH, HEIGHT, ROW, STRIP = 7.2, 2.9, 0.18, 0.08
"""Inches: of the figure, of the panels, of a line of the legend, of a strip that shows a group's stages."""
LINE, HANDLE = 105, 10
"""Letters that a line of the legend has room for, and those that one entry's sign takes up."""
_THICK = 0.75
"""Of a strip, as a share of the room it has."""
PLUNGE = 1.4
"""How much higher the picture may get for the sake of the first 5 % of the curves."""


Placed = list[tuple[float, float, Span]]
"""Stages with where they begin and end along an axis."""


@dataclass(frozen=True)
class Look:
    """How a group is told apart, in colour and without."""

    color: str
    line: Any
    marker: str


BASELINE = Look(GREY, (0, (4, 1.5)), "s")
LOOKS = (
    Look(BLUE, "-", "o"),
    Look(ORANGE, (0, (6, 1.2, 1.2, 1.2)), "^"),
    Look(GREEN, (0, (1.2, 1)), "D"),
    Look(PINK, (0, (3, 1, 1, 1, 1, 1)), "v"),
    Look(AMBER, (0, (8, 2)), "P"),
    Look(SKY, (0, (2, 1)), "X"),
    Look("#000000", (0, (5, 3)), "*"),
)
OTHERS = Look(FAINT, "-", "")


def looks_of(groups: Sequence[Group]) -> dict[str, Look]:
    """Label -> look: the first dense group as the baseline, eight groups in all told apart, the others grey.

    Those with more seeds come first.
    """
    dense = [group.label for group in groups if group.dense]
    est = sorted((group for group in groups if not group.dense), key=lambda group: -len(group.counted))
    others = [group.label for group in est] + dense[1:]
    looks = dict(zip(others, [*LOOKS, *[OTHERS] * len(others)], strict=False))
    return {group.label: looks.get(group.label, BASELINE) for group in groups}


def loss_figure(groups: Sequence[Group], axis: Axis) -> Figure | None:
    """None where no group is known along this axis."""
    looks = looks_of(groups)
    stages = staged([group for group in groups if looks[group.label] is not OTHERS], axis)
    strips = 0 if all_alike(stages) else len(stages)
    entries = _legend(groups, looks)
    columns = _columns(list(entries))
    figure = new_figure(WIDTH, HEIGHT + ROW * -(-len(entries) // columns) + STRIP * strips)
    above, (left, right) = _panels(figure, strips)
    drawn = _draw(left, groups, looks, axis, training_curve, band=0.15)
    known = _draw(right, groups, looks, axis, validation_curve, band=0.2, markers=True)
    if not known and not drawn:
        return None
    for axes, name, curves in ((left, "training loss", drawn), (right, "validation loss", known)):
        axes.set_ylabel(f"{name} (nats per token)", fontsize=9)
        axes.tick_params(labelsize=8)
        _limit(axes, curves)
        _bottom(axes, axis)
        tidy(axes)
        if stages and not strips:
            shade(axes, next(iter(stages.values())))
    for axes in above:
        draw_strips(axes, stages, {label: look.color for label, look in looks.items()})
    legend_below(figure, entries, columns)
    return figure


def _panels(figure: Figure, strips: int) -> tuple[list[Axes], list[Axes]]:
    """Axes for strips, if there are any, above those for the curves."""
    if not strips:
        return [], list(figure.subplots(1, 2))
    rows = figure.subplots(2, 2, sharex="col", height_ratios=[STRIP * strips, HEIGHT])
    return list(rows[0]), list(rows[1])


def _columns(labels: Sequence[str]) -> int:
    """As many as fit side by side."""
    return max(1, min(len(labels), int(LINE / (HANDLE + max(map(len, labels))))))


def _draw(
    axes: Axes,
    groups: Sequence[Group],
    looks: dict[str, Look],
    axis: Axis,
    curve_of: Callable[[Group, Axis], Curve | None],
    band: float,
    markers: bool = False,
) -> list[Curve]:
    curves = []
    for group in groups:
        look, curve = looks[group.label], curve_of(group, axis)
        if curve is None or not len(curve.x):
            continue
        curves.append(curve)
        every = max(1, len(curve.x) // 8)
        marker: dict[str, Any] = (
            {"marker": look.marker, "markersize": 4, "markevery": every, "markeredgecolor": "white"} if markers else {}
        )
        order = 2 if look is OTHERS else 3
        axes.plot(
            curve.x, curve.mean, color=look.color, linestyle=look.line, linewidth=1.5, zorder=order, **marker,
            markeredgewidth=0.5,
        )  # fmt: skip
        if curve.seeds > 1:
            axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=band, linewidth=0, zorder=1.5)
    return curves


def _limit(axes: Axes, curves: Sequence[Curve]) -> None:
    """Show where the runs went: a deep plunge in the first 5 % may leave the picture at the top."""
    everything, settled = [], []
    for curve in curves:
        late = curve.x >= curve.x[0] + 0.05 * (curve.x[-1] - curve.x[0])
        bounds = np.concatenate([curve.low[late], curve.high[late]])
        settled += [value for value in bounds if np.isfinite(value)]
        everything += [value for value in (*curve.mean, *bounds) if np.isfinite(value)]
    if settled:
        low, high, top = min(everything), max(everything), max(settled)
        top = high if high - low < PLUNGE * (top - low) else top
        room = 0.06 * (top - low) or 0.1
        axes.set_ylim(low - room, top + room)


def _bottom(axes: Axes, axis: Axis) -> None:
    axes.set_xlim(left=0)
    if axis is Axis.steps:
        step_axis(axes)
        axes.xaxis.label.set_fontsize(9)
        return
    end = axes.get_xlim()[1]
    size, unit = unit_of(axis, end)
    axes.set_xlabel(NAMES[axis] + (f" ({unit})" if unit else ""), fontsize=9)
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(0.0, end / size)
    axes.set_xticks([size * tick for tick in ticks if size * tick <= end])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / size:g}"))


def unit_of(axis: Axis, end: float) -> tuple[float, str]:
    """How large the unit of an axis is that goes to `end`, and its name; 1 and nothing for steps."""
    return next(((size, unit) for least, size, unit in _UNITS.get(axis, ()) if end >= least), (1, ""))


def _legend(groups: Sequence[Group], looks: dict[str, Look]) -> dict[str, Line2D]:
    entries = {}
    for group in groups:
        look, n = looks[group.label], len(group.drawn)
        if look is not OTHERS:
            style: dict[str, Any] = {"marker": look.marker, "markersize": 4, "markeredgecolor": "white"}
            label = plain_text(f"{group.label} (n={n})")
            entries[label] = Line2D([], [], color=look.color, linestyle=look.line, linewidth=1.5, **style)
    others = sum(look is OTHERS for look in looks.values())
    if others:
        entries[f"{others} more, see the table"] = Line2D([], [], color=FAINT, linewidth=1.5)
    return entries


def staged(groups: Sequence[Group], axis: Axis) -> dict[str, Placed]:
    """Label -> stages, of the groups that have more than one."""
    placed = {group.label: placed_stages(group, axis) for group in groups}
    return {label: spans for label, spans in placed.items() if len(spans) > 1}


def all_alike(stages: Mapping[str, Placed]) -> bool:
    """Whether one background serves all groups."""
    return len({tuple(f"{end:.3g}" for _, end, _ in spans) for spans in stages.values()}) == 1


def placed_stages(group: Group, axis: Axis) -> Placed:
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
        if len(spans) <= MAX_SHOWN:
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
