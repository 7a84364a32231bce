"""The pictures of a run: its loss, what it saved, the loss at each transition, how often each unit was trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from est_cli.common.counts import counted
from est_cli.est.coverage import Coverage
from est_cli.reporting.drawing import (
    BLUE,
    GREEN,
    GREY,
    MAX_SHOWN,
    ORANGE,
    PINK,
    labelled,
    legend_below,
    new_figure,
    save_pictures,
    stage_shade,
    step_axis,
    tidy,
)
from est_cli.reporting.records import (
    Record,
    Span,
    by_step,
    column,
    smooth_loss,
    stage_spans,
    training_records,
    transition_steps,
    validation_records,
)
from est_cli.reporting.spikes import Spike, largest, loss_spikes
from est_cli.storage.run_dir import LAST_PLOT

WIDTH = 7.0
AROUND = 25
"""Logged losses on each side of a transition that a picture shows at least."""
MAX_PANELS = 6
"""Transitions that are drawn: the first ones and, of more than these, the last."""
PANELS_IN_ROW = 3
MAX_NUMBERS = 5
"""Loss spikes whose loss is written beside them."""


def plot_run(metrics: list[Record], plots_dir: Path, title: str) -> list[Path]:
    """Draw loss.png and saving.png into `plots_dir` (made if missing) and return their paths.

    Nothing is drawn, and the list is empty, where `metrics` holds no training step. Raises StorageError.
    """
    train = training_records(metrics)
    if not train:
        return []
    figures = {"loss.png": loss_figure(metrics, title), "saving.png": saving_figure(metrics, title)}
    save_pictures(figures, plots_dir)
    return [plots_dir / name for name in figures]


def loss_figure(metrics: list[Record], title: str) -> Figure:
    """Training loss (each step faint, running mean strong), its spikes, and validation loss of the complete model.

    Below, where it was measured: how far the losses of several draws lie apart.
    """
    train, validation = training_records(metrics), validation_records(metrics)
    spread = by_step(record for record in metrics if record.get("draw_spread") is not None)
    figure = new_figure(WIDTH, 6.0 if spread else 4.4)
    ratios = [3, 1] if spread else [1]
    axes, *below = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    smooth = _draw_train_loss(axes, train)
    if validation:
        _draw_validation(axes, validation)
    axes.set_ylabel("cross-entropy loss (nats per token)")
    _limit_loss(axes, train, smooth, validation)
    _mark_spikes(axes, loss_spikes(train))
    _draw_stages(axes, train, metrics)
    for panel in below:
        _draw_spread(panel, spread)
        _draw_stages(panel, train, metrics, labels=False)
    _finish(figure, [axes, *below], title)
    return figure


def saving_figure(metrics: list[Record], title: str) -> Figure:
    """Above: FLOPs saved so far in percent, both conventions. Below: FLOPs used so far against a dense run."""
    train = by_step(record for record in metrics if "flops_dense" in record)
    steps = column(train, "step")
    figure = new_figure(WIDTH, 6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    for key, color, style, name in (
        ("flops_saved_pct_blocks", BLUE, "-", "blocks"),
        ("flops_saved_pct_total", GREEN, "--", "total"),
    ):
        saved = column(train, key)
        above.plot(steps, saved, color=color, linestyle=style, linewidth=1.8, label=f"saved, {name}: {saved[-1]:.1f} %")
    above.set(ylabel="FLOPs saved so far (%)", ylim=(0, max(1.0, *above.get_ylim())))
    used, dense = column(train, "flops"), column(train, "flops_dense")
    below.plot(steps, used, color=ORANGE, linewidth=1.8, label="this run, total")
    below.plot(steps, dense, color=GREY, linestyle=":", linewidth=1.8, label="dense run, total")
    below.fill_between(steps, used, dense, color=ORANGE, alpha=0.15, lw=0)
    below.set_ylabel("training FLOPs so far")
    below.set_ylim(bottom=0)
    below.yaxis.set_major_formatter(EngFormatter(unit="FLOP"))
    _draw_stages(above, train, metrics)
    _draw_stages(below, train, metrics, labels=False)
    _finish(figure, [above, below], title)
    return figure


def _draw_train_loss(axes: Axes, train: Sequence[Record]) -> np.ndarray:
    """Draw both training curves and return the smooth one. It breaks at stages, for the loss jumps there."""
    steps, losses = column(train, "step"), column(train, "loss")
    stages = column(train, "stage")
    smooth = smooth_loss(train)
    axes.plot(steps, losses, color=BLUE, alpha=0.35, linewidth=0.8, label="training, as logged", zorder=2)
    for index, number in enumerate(np.unique(stages)):
        here = stages == number
        label = "training, running mean" if index == 0 else None
        marker = "." if here.sum() == 1 else None
        axes.plot(steps[here], smooth[here], color=BLUE, linewidth=1.8, marker=marker, label=label, zorder=3)
    return smooth


def _draw_validation(axes: Axes, validation: Sequence[Record]) -> None:
    style: dict[str, Any] = {
        "marker": "o",
        "markersize": 4,
        "linewidth": 1.4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }
    steps, losses = column(validation, "step"), column(validation, "val_loss")
    axes.plot(steps, losses, color=ORANGE, label="validation (complete model)", zorder=4, **style)


def _limit_loss(axes: Axes, train: Sequence[Record], smooth: np.ndarray, validation: Sequence[Record]) -> None:
    """Show where the run went: the plunge of its first 3 % may leave the picture at the top."""
    losses, val_losses = column(train, "loss"), column(validation, "val_loss")
    steps, val_steps = column(train, "step"), column(validation, "step")
    settled = steps[0] + 0.03 * (steps[-1] - steps[0])
    tops = np.concatenate([smooth[steps >= settled], val_losses[val_steps >= settled]])
    bottoms = np.concatenate([losses, val_losses])
    if np.isfinite(tops).any():
        top, bottom = np.nanmax(tops), np.nanmin(bottoms)
        room = 0.05 * (top - bottom) or 0.1
        axes.set_ylim(bottom - room, top + room)


def _mark_spikes(axes: Axes, spikes: Sequence[Spike]) -> None:
    """A triangle at each, at the upper edge for a loss beyond it; beside the largest their losses."""
    top = axes.get_ylim()[1]
    for marker, beyond in (("v", False), ("^", True)):
        here = [spike for spike in spikes if (spike.loss > top) == beyond]
        steps, places = [spike.step for spike in here], [min(spike.loss, top) for spike in here]
        label = "loss spike" + (", beyond the picture" if beyond else "")
        style: dict[str, Any] = {"marker": marker, "linestyle": "none", "color": PINK, "markersize": 6, "zorder": 5}
        if here:
            axes.plot(steps, places, clip_on=False, label=label, **style)
    for spike in largest(spikes, MAX_NUMBERS):
        place = (spike.step, min(spike.loss, top))
        axes.annotate(f"{spike.loss:.1f}", place, (5, -3), textcoords="offset points", fontsize=8, color=PINK)


def _draw_spread(axes: Axes, measured: Sequence[Record]) -> None:
    """How far the draws' losses lie apart at each evaluation that ran subnetworks."""
    steps = column(measured, "step")
    for key, color, marker, name in (
        ("draw_range", PINK, "s", "draws: largest less smallest loss"),
        ("draw_spread", GREEN, "D", "draws: standard deviation"),
    ):
        axes.plot(steps, column(measured, key), color=color, marker=marker, markersize=4, linewidth=1.2, label=name)
    axes.set(ylabel="over draws (nats)", ylim=(0, max(0.1, *axes.get_ylim())))


def _draw_stages(axes: Axes, train: Sequence[Record], metrics: Iterable[Record], labels: bool = True) -> None:
    spans = stage_spans(train)
    first, last = spans[0].begin, spans[-1].end
    axes.set_xlim(first, last + 0.01 * (last - first))
    labelled_above = labels and len(spans) <= MAX_SHOWN
    for span in spans:
        shade = stage_shade(span.number, span.full)
        area = axes.axvspan(span.begin, span.end, facecolor=shade, linewidth=0, zorder=0)
        if labelled_above and not _label_stage(axes, span, width_frac=(span.end - span.begin) / (last - first)):
            area.set(label=f"stage {span.number}: {_rates(span)}", edgecolor=GREY)
    for index, step in enumerate(transition_steps(metrics)):
        label = "stage transition" if index == 0 else None
        axes.axvline(step, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label=label, zorder=1)


def _label_stage(axes: Axes, span: Span, width_frac: float) -> bool:
    """Write above the axes, where no curve is hidden; False if there was room for the number only."""
    wide = width_frac > 0.22
    text = f"stage {span.number}\n{_rates(span)}" if wide else str(span.number)
    middle = (span.begin + span.end) / 2
    place = axes.get_xaxis_transform()
    axes.text(middle, 1.015, text, transform=place, ha="center", va="bottom", fontsize=8, color=GREY)
    return wide


def _rates(span: Span) -> str:
    p_h, p_m, p_l = span.rates
    positions = f", $p_T$={span.p_t:.3g}" if span.p_t < 1 else ""
    return "full model" if span.full else f"$p_H$={p_h:.3g}, $p_M$={p_m:.3g}, $p_L$={p_l:.3g}{positions}"


def _finish(figure: Figure, all_axes: Sequence[Axes], title: str) -> None:
    for axes in all_axes:
        tidy(axes)
    step_axis(all_axes[-1])
    figure.align_ylabels()
    figure.suptitle(title, fontsize=11)
    entries = labelled(all_axes)
    names = sorted(entries, key=lambda label: label.startswith("stage"))  # curves first, stages and transitions last
    legend_below(figure, {name: entries[name] for name in names}, columns=4 if len(names) <= 4 else 3)


def plot_stages(metrics: Sequence[Record], transitions: Sequence[Record], covered: Coverage, folder: Path) -> None:
    """Draw transitions.png, where there is a transition, and coverage.png into the folder (made if missing).

    `transitions` as in summary.json. Raises StorageError.
    """
    train = [record for record in metrics if record.get("loss") is not None]
    figures = {"transitions.png": transitions_figure(train, transitions)} if transitions and train else {}
    save_pictures({**figures, LAST_PLOT: coverage_figure(covered)}, folder)


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
    return "no rise" if change["steps_to_recover"] == 0 else f"back after {counted(change['steps_to_recover'], 'step')}"
