"""The pictures of a run's stages: the loss around each transition, and how often each unit was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from est_cli.est.coverage import Coverage
from est_cli.reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    labelled,
    legend_below,
    new_figure,
    save_pictures,
    step_axis,
    tidy,
)

Record = dict[str, Any]

AROUND = 25
"""Logged losses on each side of a transition that a picture shows at least."""
MAX_PANELS = 6
"""Transitions that are drawn: the first ones and, of more than these, the last."""
PANELS_IN_ROW = 3


def plot_stages(metrics: Sequence[Record], transitions: Sequence[Record], covered: Coverage, folder: Path) -> None:
    """Draw transitions.png, where there is a transition, and coverage.png into the folder (made if missing).

    `transitions` as in summary.json. Raises StorageError.
    """
    train = [record for record in metrics if record.get("loss") is not None]
    figures = {"transitions.png": transitions_figure(train, transitions)} if transitions and train else {}
    save_pictures({**figures, "coverage.png": coverage_figure(covered)}, folder)


def transitions_figure(train: Sequence[Record], transitions: Sequence[Record]) -> Figure:
    """A panel for each transition: training losses, and the means before and after it."""
    shown = [*transitions] if len(transitions) <= MAX_PANELS else [*transitions[: MAX_PANELS - 1], transitions[-1]]
    columns = min(len(shown), PANELS_IN_ROW)
    rows = -(-len(shown) // columns)
    figure = new_figure(1.0 + 3.2 * columns, 0.9 + 2.6 * rows)
    panels = [panel for row in figure.subplots(rows, columns, squeeze=False) for panel in row]
    for panel in panels[len(shown) :]:
        panel.remove()
    for panel, change in zip(panels, shown, strict=False):
        _draw_transition(panel, train, change)
    panels[0].set_ylabel("training loss (nats per token)")
    legend_below(figure, labelled(panels[: len(shown)]), columns=4)
    return figure


def coverage_figure(covered: Coverage) -> Figure:
    """Shares of the steps: each layer's, each head's, and the spread of each layer's columns."""
    parts = [part for part in (covered.heads, covered.columns) if part.shape[1]]
    figure = new_figure(3.0 + 3.2 * len(parts), 3.6)
    panels = figure.subplots(1, 1 + len(parts), squeeze=False)[0]
    layers = range(len(covered.layers))
    panels[0].barh(layers, covered.layers, color=BLUE, height=0.7)
    panels[0].set(xlim=(0, 1), xlabel="share of the steps", title="layers")
    image = panels[1].imshow(covered.heads, vmin=0, vmax=1, aspect="auto", cmap="viridis", interpolation="nearest")
    panels[1].set(xlabel="head", title="heads")
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=panels[1], label="share of the steps")
    if len(parts) > 1:
        panels[2].boxplot([*covered.columns], orientation="horizontal", positions=layers, whis=(0, 100), widths=0.6)
        panels[2].set(xlim=(0, 1), xlabel="share of the steps", title="columns (least to most)")
    for panel in panels:
        panel.set_ylim(len(layers) - 0.5, -0.5)
        panel.set_yticks(layers, map(str, layers))
    panels[0].set_ylabel("layer")
    figure.suptitle("How often each unit was trained", fontsize=11)
    return figure


def _draw_transition(axes: Axes, train: Sequence[Record], change: Record) -> None:
    step = change["step"]
    first = next((n for n, record in enumerate(train) if record["step"] >= step), len(train))
    later = [record["step"] for record in train[first:]]
    recovered = change["steps_to_recover"] or 0
    width = max(AROUND, 2 * sum(record < step + recovered for record in later))
    near = train[max(0, first - width) : first + width]
    steps, losses = [record["step"] for record in near], [record["loss"] for record in near]
    axes.plot(steps, losses, color=BLUE, linewidth=1.0, marker=".", markersize=3, label="training loss")
    axes.axvline(step - 0.5, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="stage transition")
    for key, colour, style in (("mean_before", ORANGE, "-"), ("mean_after", GREEN, "--")):
        if change[key] is not None:
            label = key.replace("_", " ")
            axes.axhline(change[key], color=colour, linestyle=style, linewidth=1.2, label=label)
    axes.set_title(f"{change['from_stage']} to {change['to_stage']} at step {step:,}: {_recovery(change)}", fontsize=9)
    tidy(axes)
    step_axis(axes)


def _recovery(change: Record) -> str:
    if change["steps_to_recover"] is None:
        return "never back"
    return "no rise" if change["steps_to_recover"] == 0 else f"back after {change['steps_to_recover']:,} steps"
