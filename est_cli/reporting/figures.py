"""The pictures of one run: its loss and what it saved, over steps, with the stages of the schedule behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

Record = dict[str, Any]

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#4D4D4D"
"""From the palette of Okabe and Ito; lines differ in style or marker too, for prints without colour."""
SHADES = ("#DCE6F0", "#EEF3F8", "#FFFFFF")
"""Background of the stages, from the smallest subnetwork to the full model."""
DPI = 160
MAX_TOLD = 8
"""Stages that are told apart in a picture; of more than that only the transitions are drawn."""


@dataclass(frozen=True)
class Span:
    """The steps (`begin`, `end`] of one stage and its rates p_H, p_M, p_L."""

    number: int
    begin: int
    end: int
    rates: tuple[float, float, float]
    """The mean of its records."""


def plot_run(metrics: list[Record], plots_dir: Path, title: str) -> list[Path]:
    """Draw loss.png and saving.png into `plots_dir` (made if missing) and return their paths.

    Nothing is drawn, and the list is empty, where `metrics` holds no training step.
    """
    train = _by_step(record for record in metrics if "loss" in record)
    if not train:
        return []
    plots_dir.mkdir(parents=True, exist_ok=True)
    figures = {"loss.png": loss_figure(metrics, title), "saving.png": saving_figure(metrics, title)}
    for name, figure in figures.items():
        figure.savefig(plots_dir / name, dpi=DPI)
    return [plots_dir / name for name in figures]


def loss_figure(metrics: list[Record], title: str) -> Figure:
    """Training loss (each step faint, running mean strong) and validation loss of the complete model."""
    train = _by_step(record for record in metrics if "loss" in record)
    figure = _figure(4.4)
    axes = figure.subplots()
    validation = _by_step(record for record in metrics if record.get("val_loss") is not None)
    smooth = _draw_train_loss(axes, train)
    if validation:
        _draw_validation(axes, validation)
    axes.set_ylabel("cross-entropy loss (nats per token)")
    _limit_loss(axes, train, smooth, validation)
    _draw_stages(axes, train, metrics)
    _finish(figure, [axes], title)
    return figure


def saving_figure(metrics: list[Record], title: str) -> Figure:
    """Above: FLOPs saved so far in percent, both conventions. Below: FLOPs used so far against a dense run."""
    train = _by_step(record for record in metrics if "flops" in record)
    steps = _column(train, "step")
    figure = _figure(6.0)
    above, below = figure.subplots(2, 1, sharex=True)
    for key, color, style, name in (
        ("flops_saved_pct_blocks", BLUE, "-", "blocks"),
        ("flops_saved_pct_total", GREEN, "--", "total"),
    ):
        saved = _column(train, key)
        above.plot(steps, saved, color=color, linestyle=style, linewidth=1.8, label=f"saved, {name}: {saved[-1]:.1f} %")
    above.set(ylabel="FLOPs saved so far (%)", ylim=(0, max(1.0, *above.get_ylim())))
    used, dense = _column(train, "flops"), _column(train, "flops_dense")
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


def stage_spans(train: Sequence[Record]) -> list[Span]:
    """The stages that the training records went through, in order, without gaps."""
    spans: list[Span] = []
    for number, group in groupby(train, key=lambda record: record["stage"]):
        records = list(group)
        begin = spans[-1].end if spans else records[0]["step"] - 1
        p_h, p_m, p_l = (fmean(record[key] for record in records) for key in ("p_h", "p_m", "p_l"))
        spans.append(Span(number, begin, records[-1]["step"], (p_h, p_m, p_l)))
    return spans


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of about `width` values around each one, of fewer at both ends. NaN is left out."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values))
    low, high = np.maximum(index - width // 2, 0), np.minimum(index + width // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (sums[high] - sums[low]) / (counts[high] - counts[low])
    return mean


def _draw_train_loss(axes: Axes, train: Sequence[Record]) -> np.ndarray:
    """Draw both training curves and return the smooth one. It breaks at stages, for the loss jumps there."""
    steps, losses = _column(train, "step"), _column(train, "loss")
    stages = _column(train, "stage")
    smooth = np.empty_like(losses)
    for number in np.unique(stages):
        smooth[stages == number] = running_mean(losses[stages == number], max(3, len(train) // 40))
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
    steps, losses = _column(validation, "step"), _column(validation, "val_loss")
    axes.plot(steps, losses, color=ORANGE, label="validation (complete model)", zorder=4, **style)


def _limit_loss(axes: Axes, train: Sequence[Record], smooth: np.ndarray, validation: Sequence[Record]) -> None:
    """Show where the run went: the plunge of its first 3 % may leave the picture at the top."""
    losses, val_losses = _column(train, "loss"), _column(validation, "val_loss")
    steps, val_steps = _column(train, "step"), _column(validation, "step")
    settled = steps[0] + 0.03 * (steps[-1] - steps[0])
    tops = np.concatenate([smooth[steps >= settled], val_losses[val_steps >= settled]])
    bottoms = np.concatenate([losses, val_losses])
    if np.isfinite(tops).any():
        top, bottom = np.nanmax(tops), np.nanmin(bottoms)
        room = 0.05 * (top - bottom) or 0.1
        axes.set_ylim(bottom - room, top + room)


def _draw_stages(axes: Axes, train: Sequence[Record], metrics: Iterable[Record], labels: bool = True) -> None:
    spans = stage_spans(train)
    first, last = spans[0].begin, spans[-1].end
    axes.set_xlim(first, last + 0.01 * (last - first))
    told = labels and len(spans) <= MAX_TOLD
    for span in spans:
        shade = SHADES[-1] if min(span.rates) == 1 else SHADES[min(span.number, 2) - 1]
        area = axes.axvspan(span.begin, span.end, facecolor=shade, linewidth=0, zorder=0)
        if told and not _label_stage(axes, span, width_frac=(span.end - span.begin) / (last - first)):
            area.set(label=f"stage {span.number}: {_rates(span)}", edgecolor=GREY)
    for index, step in enumerate(sorted({record["step"] for record in metrics if "from_stage" in record})):
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
    return "full model" if min(span.rates) == 1 else f"$p_H$={p_h:.3g}, $p_M$={p_m:.3g}, $p_L$={p_l:.3g}"


def _figure(height: float) -> Figure:
    """A figure of its own, without pyplot: nothing global is touched and nothing stays in memory."""
    figure = Figure(figsize=(7.0, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Figure, all_axes: Sequence[Axes], title: str) -> None:
    """Grid, ticks, title and one legend below everything, where it hides nothing."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        axes.grid(color="#B0B0B0", linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    last = all_axes[-1]
    last.set_xlabel("optimizer step")
    last.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 2.5, 5, 10]))
    last.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    figure.align_ylabels()
    figure.suptitle(title, fontsize=11)
    names = sorted(entries, key=lambda label: label.startswith("stage"))  # curves first, stages and transitions last
    columns: dict[str, Any] = {
        "loc": "outside lower center",
        "ncols": 4 if len(names) <= 4 else 3,
        "fontsize": 8,
        "frameon": False,
    }
    figure.legend([entries[name] for name in names], names, **columns)


def _by_step(records: Iterable[Record]) -> list[Record]:
    """In the order of steps; of several records of one step (a run that was resumed) the last."""
    last = {record["step"]: record for record in records}
    return [last[step] for step in sorted(last)]


def _column(records: Sequence[Record], key: str) -> np.ndarray:
    return np.array([np.nan if record[key] is None else record[key] for record in records], dtype=float)
