"""The layers' health over a run: layers.jsonl, read and drawn. L layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from est_cli.common.errors import StorageError
from est_cli.reporting.drawing import FAINT, new_figure, save_pictures, step_axis
from est_cli.reporting.records import LARGEST, Record, by_step
from est_cli.tracking.metrics import read_metrics

KINDS = ("heads", "columns", "rest")
_OF_LAYERS = ("activation_rms", "trained_layers")
_NORMS = tuple(f"{name}_{kind}" for name in ("grad_norm", "update_norm", "weight_norm") for kind in KINDS)


def read_layers(path: Path) -> list[Record]:
    """The records in `path` in the order of steps, none where the file is not there.

    StorageError for one that cannot be read or shown.
    """
    records = by_step(read_metrics(path)) if path.exists() else []
    count = len(records[0].get("activation_rms") or ()) if records else 0
    for record in records:
        odd = [key for key in (*_OF_LAYERS, *_NORMS) if not _possible(record, key, count)]
        if odd or not 0 < record["step"] < LARGEST:
            step = str(record["step"])[:20]
            raise StorageError(f"{path}: the record of step {step} has no list of {count} numbers as `{odd or 'step'}`")
    return records


def _possible(record: Record, key: str, count: int) -> bool:
    """A kind of parameters that the layers do not have has no key."""
    values = record.get(key)
    if values is None and key in _NORMS:
        return key not in record
    return (
        isinstance(values, list)
        and 0 < len(values) == count
        and all(value is None or (type(value) in (int, float) and 0 <= value < LARGEST) for value in values)
    )


def plot_layers(records: Sequence[Record], plots_dir: Path, title: str) -> None:
    """Draw layers.png, where there is anything to draw. Raises StorageError."""
    if records:
        save_pictures({"layers.png": layers_figure(records, title)}, plots_dir)


def layers_figure(records: Sequence[Record], title: str) -> Figure:
    """Four pictures of layer and step: gradients, updates relative to the weights, activations, what was trained."""
    layers = len(records[0]["activation_rms"])
    figure = new_figure(9.0, min(12.0, 4.0 + 0.16 * layers))
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    steps = np.array([record["step"] for record in records], dtype=float)
    for axes, (name, values, logarithmic) in zip(panels.flat, layer_grids(records), strict=True):
        _draw(figure, axes, steps, values, logarithmic)
        axes.set_title(name, fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("layer")
    for axes in panels[1]:
        step_axis(axes)
    figure.suptitle(title, fontsize=11)
    return figure


def layer_grids(records: Sequence[Record]) -> list[tuple[str, np.ndarray, bool]]:
    """What is measured of each layer: its name, (L, steps) values, whether they are shown by their logarithm."""
    update, weight = _whole(records, "update_norm"), _whole(records, "weight_norm")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = update / weight
    return [
        ("gradient norm", _whole(records, "grad_norm"), True),
        ("update norm / weight norm", ratio, True),
        ("activation RMS", _grid(records, "activation_rms"), True),
        ("share of the steps trained", _grid(records, "trained_layers"), False),
    ]


def _draw(figure: Figure, axes: Axes, steps: np.ndarray, values: np.ndarray, logarithmic: bool) -> None:
    """`values`: (L, steps); what is not known stays grey."""
    known = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    scale: Any = Normalize(0, 1)
    if logarithmic:
        low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
        scale = LogNorm(low, max(high, low * 1.01))
    ends = np.concatenate([[steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1.0)], steps])
    rows = np.arange(values.shape[0] + 1) - 0.5
    axes.set_facecolor(FAINT)
    masked = np.ma.masked_invalid(np.where(values > 0, values, np.nan) if logarithmic else values)
    image = axes.pcolormesh(ends, rows, masked, norm=scale, cmap="viridis", rasterized=True)
    axes.set_ylim(rows[-1], rows[0])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    bar: Any = figure.colorbar(image, ax=axes)
    bar.ax.tick_params(labelsize=8)


def _whole(records: Sequence[Record], name: str) -> np.ndarray:
    """(L, steps) the norm over all kinds of a layer's parameters; NaN where it is not known."""
    squares = [_grid(records, f"{name}_{kind}") ** 2 for kind in KINDS if f"{name}_{kind}" in records[0]]
    return np.sqrt(np.sum(squares, axis=0))


def _grid(records: Sequence[Record], key: str) -> np.ndarray:
    """(L, steps) float64; null becomes NaN."""
    return np.array([[np.nan if v is None else v for v in record[key]] for record in records], dtype=float).T
