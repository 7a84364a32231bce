"""What an analysis found, for people: a table on the terminal and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from est_cli.analysis.price_tables import price_notes, prices_table
from est_cli.common.counts import counted
from est_cli.common.table import print_lines, print_whole, table, table_console
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
TableContent = tuple[list[str], list[list[str]]]
"""The headings and the rows."""


def print_result(content: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """What was found, on which text, and where it is kept."""
    console = console or table_console()
    headings, rows = TABLES[content["analysis"]](content["result"])
    plain = not console.is_terminal
    print_whole(console, table(headings, rows, title=content["analysis"], words=headings[:1], plain=plain))
    print_lines(console, *_notes(content), f"results: {folder}")


def _notes(content: dict[str, Any]) -> Iterator[str]:
    text, result = content["text"], content["result"]
    for key in ("checkpoint", "baseline"):
        if result.get(key):
            yield f"{key}: {result[key]}"
    size = (
        f"{counted(text['predicted_tokens'], 'token')} in {counted(text['sequences'], 'sequence')} of {text['seq_len']}"
    )
    yield f"text: {size}, {content['settings']['analyze']['part']} part of {content['settings']['dataset']['name']}"
    yield f"blocks {_some(text['blocks'])} of its {text['num_blocks']}, digest {text['digest']}; token ids: tokens.npy"
    if content["analysis"] in ("hessian_trace", "compare"):
        yield "± is the standard error over the probes"
    if content["analysis"] == "prices":
        yield from price_notes(result)


def _some(numbers: list[int]) -> str:
    """All of them, or the first three and the last."""
    few = map(str, numbers if len(numbers) <= 5 else numbers[:3])
    return ", ".join(few) + (f", ..., {numbers[-1]}" if len(numbers) > 5 else "")


def _trace(result: dict[str, Any]) -> TableContent:
    if "checkpoints" in result:
        return _traces(result["checkpoints"])
    rows = [["all that was chosen", f"{result['weights']}", _with_error(result["trace"])]]
    if "without_embeddings" in result:
        count = result["weights"] - result["groups"]["embeddings"]["weights"]
        rows.append(["without embeddings and LM head", f"{count}", _with_error(result["without_embeddings"])])
    rows += [[f"  {group}", f"{one['weights']}", _with_error(one)] for group, one in result["groups"].items()]
    return ["weights", "number", f"trace of the Hessian ({result['trace']['n']} probes)"], rows


def _traces(checkpoints: list[dict[str, Any]]) -> TableContent:
    """A checkpoint in each row."""
    without = "without_embeddings" in checkpoints[0]
    headings = ["step", "stage", "loss", "trace", *(["without embeddings"] if without else [])]
    rows = [
        [
            f"{one['step']}",
            "-" if one["stage"] is None else f"{one['stage']}",
            f"{one['loss']:.4f}",
            _with_error(one["trace"]),
            *([_with_error(one["without_embeddings"])] if without else []),
        ]
        for one in checkpoints
    ]
    return headings, rows


def _flatness(result: dict[str, Any]) -> TableContent:
    spread = result["standard_deviation"] or [None] * len(result["places"])
    rows = [
        [f"{place:+.3f}", _number(mean), _number(sd), _number(None if mean is None else mean - result["loss"])]
        for place, mean, sd in zip(result["places"], result["mean"], spread, strict=True)
    ]
    rise, bend = result["rise_at_radius"], result["curvature"]
    rows += [["rise at the ends", "", "", _with_error(rise)], ["curvature at 0", "", "", _with_error(bend)]]
    return ["place", "mean loss", "sd", "above the checkpoint's"], rows


def _compare(result: dict[str, Any]) -> TableContent:
    value, other = result["loss"], result["baseline_loss"]
    rows = [["loss", f"{value:.4f}", f"{other:.4f}", f"{value - other:+.4f}"]]
    if "trace" in result:
        both = _with_error(result["trace"]["trace"]), _with_error(result["baseline_trace"]["trace"])
        rows.append(["trace of the Hessian", *both, _with_error(result["trace_difference"])])
    if result["line"] is None:
        rows.append(["line between them", "", "", "none: other names or shapes"])
    else:
        rows.append(["barrier on the line", "", "", _number(result["line"]["barrier"])])
        rows += [
            [f"distance, {group}", "", "", f"{one['distance']:.4g}" + _share(one["relative"])]
            for group, one in result["distance"].items()
        ]
    return ["", "checkpoint", "baseline", "difference"], rows


def _dropout(result: dict[str, Any]) -> TableContent:
    rates = " ".join(f"{key}={value:g}" for key, value in result["realised"].items())
    rows = [
        [one["kind"], _with_error(one["measured"]), _with_error(one["predicted"]), _with_error(one["rest"])]
        for one in result["regularisation"]
    ]
    rows += [[f"mean output of {path}", _with_error(one), "1", ""] for path, one in result["mean_output"].items()]
    return [f"{rates}, {counted(result['draws'], 'draw')}", "added loss", "second order", "difference"], rows


def _draws(result: dict[str, Any]) -> TableContent:
    """Distributions, then the costliest units and pairs; in these the error is that over the sequences of the text."""
    keys = ("standard_deviation", "median", "quantile_95", "most")
    rows = [
        [f"{one['kind']} at {one['rate']:g}", _with_error(one["excess"]), *(_number(one[key]) for key in keys)]
        for one in result["distributions"]
    ]
    for one in result["units"] or ():
        name = (
            f"layer {one['layer']}"
            if one["kind"] == "layer"
            else f"{one['kind']} {one['number']} of layer {one['layer']}"
        )
        rows.append([f"without {name}", _with_error(one["excess"]), "", "", "", ""])
    for one in (result["pairs"] or ())[:SHOWN_PAIRS]:
        name = f"heads {one['heads'][0]} and {one['heads'][1]} of layer {one['layer']}"
        rows.append([f"without {name}", _with_error(one["excess"]), "", "", "", ""])
        rows.append(["  beyond the sum of both", _with_error(one["beyond_the_sum"]), "", "", "", ""])
    return [f"{result['draws']} draws each", "excess loss", "sd", "median", "95 %", "most"], rows


SHOWN_PAIRS = 3
TABLES = {
    "hessian_trace": _trace,
    "flatness": _flatness,
    "compare": _compare,
    "structural_dropout": _dropout,
    "draws": _draws,
    "prices": prices_table,
}


def _with_error(one: dict[str, Any] | None) -> str:
    """mean ± standard error."""
    if one is None:
        return "-"
    error = one["standard_error"]
    return f"{one['mean']:.5g}" + ("" if error is None else f" ± {error:.2g}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _share(relative: float | None) -> str:
    return "" if relative is None else f" ({100 * relative:.1f} % of the baseline's norm)"


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
    places, mean = np.array(result["places"]), _with_gaps(result["mean"])
    for number, row in enumerate(result["losses"]):
        label = "each direction" if number == 0 else None
        axes.plot(places, _with_gaps(row), color=BLUE, alpha=0.35, linewidth=0.8, label=label)
    axes.plot(places, mean, "o-", color=BLUE, markersize=3, linewidth=1.8, label="mean")
    if result["standard_deviation"] is not None:
        spread = _with_gaps(result["standard_deviation"])
        axes.fill_between(places, mean - spread, mean + spread, color=BLUE, alpha=0.15, lw=0, label="± 1 sd")
    axes.set_xlabel("distance along a filter-normalised direction")
    axes.set_ylabel(LOSS)
    return _finished(figure, axes, result["checkpoint"])


def line_figure(result: dict[str, Any]) -> Figure:
    """The loss from the baseline to the checkpoint, and the straight line between its ends."""
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    losses = _with_gaps(result["line"]["losses"])
    places = np.linspace(0.0, 1.0, len(losses))
    axes.plot(places, losses, "o-", color=BLUE, markersize=3, linewidth=1.8, label="loss")
    axes.plot(places[[0, -1]], losses[[0, -1]], "--", color=ORANGE, linewidth=1.4, label="straight between both ends")
    axes.set_xlabel("0: baseline, 1: checkpoint")
    axes.set_ylabel(LOSS)
    return _finished(figure, axes, f"from {result['baseline']}\nto {result['checkpoint']}")


def draws_figure(result: dict[str, Any]) -> Figure:
    """Each draw as a point, by kind and rate, with the median and the middle nine tenths."""
    figure, found = new_figure(*SIZE), result["distributions"]
    axes = figure.subplots()
    for row, one in enumerate(reversed(found)):
        axes.plot(
            one["each"],
            np.full(len(one["each"]), row),
            "o",
            color=BLUE,
            alpha=0.35,
            markersize=4,
            label="a draw" if row == 0 else None,
        )
        axes.plot(
            [one["quantile_05"], one["quantile_95"]],
            [row, row],
            color=GREY,
            linewidth=1.2,
            zorder=1,
            label="middle 90 %" if row == 0 else None,
        )
        axes.plot(
            one["median"],
            row,
            "|",
            color=ORANGE,
            markersize=16,
            markeredgewidth=2.5,
            label="median" if row == 0 else None,
        )
    axes.set_yticks(range(len(found)), [f"{one['kind']} at {one['rate']:g}" for one in reversed(found)])
    axes.set_xlabel("loss above the complete model's (nats per token)")
    return _finished(figure, axes, f"Draws of {result['checkpoint']}")


def _finished(figure: Figure, axes: Axes, title: str) -> Figure:
    tidy(axes)
    figure.suptitle(plain_text(title), fontsize=10)
    legend_below(figure, labelled([axes]), columns=3)
    return figure


def _with_gaps(values: list[float | None]) -> np.ndarray:
    """None, which stands for infinity, leaves a gap."""
    return np.array([np.nan if value is None else value for value in values], dtype=float)
