"""The results of an analysis for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from est_cli.common.table import table, table_console

Shown = tuple[list[str], list[list[str]]]
"""The headings and the rows."""


def print_result(content: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """What was found, on which text, and where it is kept."""
    console = console or table_console()
    headings, rows = TABLES[content["analysis"]](content["result"])
    plain = not console.is_terminal
    console.print(table(headings, rows, title=content["analysis"], words=headings[:1], plain=plain))
    for line in (*_notes(content), f"results: {folder}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _notes(content: dict[str, Any]) -> Iterator[str]:
    text, result = content["text"], content["result"]
    for key in ("checkpoint", "baseline"):
        if result.get(key):
            yield f"{key}: {result[key]}"
    size = f"{text['predicted_tokens']} tokens in {text['sequences']} sequences of {text['seq_len']}"
    yield f"text: {size}, {content['settings']['analyze']['part']} part of {content['settings']['dataset']['name']}"
    if content["analysis"] in ("hessian_trace", "compare"):
        yield "± is the standard error over the probes"


def _trace(result: dict[str, Any]) -> Shown:
    if "checkpoints" in result:
        return _traces(result["checkpoints"])
    rows = [["all that was chosen", f"{result['weights']}", _with_error(result["trace"])]]
    if "without_embeddings" in result:
        count = result["weights"] - result["groups"]["embeddings"]["weights"]
        rows.append(["without embeddings and LM head", f"{count}", _with_error(result["without_embeddings"])])
    rows += [[f"  {group}", f"{one['weights']}", _with_error(one)] for group, one in result["groups"].items()]
    return ["weights", "number", f"trace of the Hessian ({result['trace']['n']} probes)"], rows


def _traces(checkpoints: list[dict[str, Any]]) -> Shown:
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


def _flatness(result: dict[str, Any]) -> Shown:
    spread = result["standard_deviation"] or [None] * len(result["places"])
    rows = [
        [f"{place:+.3f}", _number(mean), _number(sd), _number(None if mean is None else mean - result["loss"])]
        for place, mean, sd in zip(result["places"], result["mean"], spread, strict=True)
    ]
    rise, bend = result["rise_at_radius"], result["curvature"]
    rows += [["rise at the ends", "", "", _with_error(rise)], ["curvature at 0", "", "", _with_error(bend)]]
    return ["place", "mean loss", "sd", "above the checkpoint's"], rows


def _compare(result: dict[str, Any]) -> Shown:
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


def _dropout(result: dict[str, Any]) -> Shown:
    rates = " ".join(f"{key}={value:g}" for key, value in result["realised"].items())
    rows = [
        [one["kind"], _with_error(one["measured"]), _with_error(one["predicted"]), _with_error(one["rest"])]
        for one in result["regularisation"]
    ]
    rows += [[f"mean output of {path}", _with_error(one), "1", ""] for path, one in result["mean_output"].items()]
    return [f"{rates}, {result['draws']} draws", "added loss", "second order", "difference"], rows


TABLES = {"hessian_trace": _trace, "flatness": _flatness, "compare": _compare, "structural_dropout": _dropout}


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
