"""Pictures of an analysis."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from est_cli.reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    labelled,
    legend_below,
    new_figure,
    plain_text,
    step_axis,
    tidy,
)

SIZE = (7.0, 4.2)
LOSS = "loss (nats per token)"


def transitions_figure(checkpoints: list[dict[str, Any]]) -> Figure:
    """The trace at each checkpoint of a run with its standard error, all weights and without the embeddings."""
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    steps = [one["step"] for one in checkpoints]
    for key, colour, style, label in (
        ("trace", BLUE, "o-", "chosen weights"),
        ("without_embeddings", GREEN, "s--", "without embeddings and LM head"),
    ):
        if found := [one[key] for one in checkpoints if key in one]:
            errors = [one["standard_error"] or 0.0 for one in found]
            axes.errorbar(
                steps, [one["mean"] for one in found], errors, fmt=style, color=colour, capsize=3, label=label
            )
    stages = [one["stage"] for one in checkpoints]
    ends = [step for step, stage, after in zip(steps, stages, stages[1:], strict=False) if stage != after]
    for number, step in enumerate(ends):
        named = "last checkpoint of a stage" if number == 0 else None
        axes.axvline(step, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label=named, zorder=1)
    axes.set_ylabel("trace of the Hessian (± standard error)")
    step_axis(axes)
    return _finished(figure, axes, "Trace of the Hessian over a run")


def flatness_figure(result: dict[str, Any]) -> Figure:
    """Each direction's curve faintly, their mean, and a band of one standard deviation."""
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    places, mean = np.array(result["places"]), _numbers(result["mean"])
    for number, row in enumerate(result["losses"]):
        label = "each direction" if number == 0 else None
        axes.plot(places, _numbers(row), color=BLUE, alpha=0.35, linewidth=0.8, label=label)
    axes.plot(places, mean, "o-", color=BLUE, markersize=3, linewidth=1.8, label="mean")
    if result["standard_deviation"] is not None:
        spread = _numbers(result["standard_deviation"])
        axes.fill_between(places, mean - spread, mean + spread, color=BLUE, alpha=0.15, lw=0, label="± 1 sd")
    axes.set_xlabel("distance along a filter-normalised direction")
    axes.set_ylabel(LOSS)
    return _finished(figure, axes, result["checkpoint"])


def line_figure(result: dict[str, Any]) -> Figure:
    """The loss from the baseline to the checkpoint, and the straight line between its ends."""
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    losses = _numbers(result["line"]["losses"])
    places = np.linspace(0.0, 1.0, len(losses))
    axes.plot(places, losses, "o-", color=BLUE, markersize=3, linewidth=1.8, label="loss")
    axes.plot(places[[0, -1]], losses[[0, -1]], "--", color=ORANGE, linewidth=1.4, label="straight between both ends")
    axes.set_xlabel("0: baseline, 1: checkpoint")
    axes.set_ylabel(LOSS)
    return _finished(figure, axes, f"from {result['baseline']}\nto {result['checkpoint']}")


def _finished(figure: Figure, axes: Axes, title: str) -> Figure:
    tidy(axes)
    figure.suptitle(plain_text(title), fontsize=10)
    legend_below(figure, labelled([axes]), columns=3)
    return figure


def _numbers(values: list[float | None]) -> np.ndarray:
    """None, which stands for infinity, leaves a gap."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
