"""analysis=flatness and analysis=compare: the loss away from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from est_cli.analysis.estimate import estimate
from est_cli.analysis.figures import flatness_figure, line_figure
from est_cli.analysis.flatness import curves, positions
from est_cli.analysis.job import Job, Outcome
from est_cli.analysis.line import barrier, line_losses, root_of_sum, same_shapes, squared_distances, squared_norms
from est_cli.analysis.parameters import GROUPS, chosen, filter_dims, group_names
from est_cli.analysis.trace import trace_of
from est_cli.common.errors import ConfigError
from est_cli.data.tokenizer import tokenizer_digest


def flatness(job: Job) -> Outcome:
    """The loss along random directions, each filter of which is as long as the model's own."""
    settings, checkpoint = job.config.analyze, job.asked[0].checkpoint
    model = job.load(checkpoint)
    loss, value = job.loss(model, checkpoint)
    places = positions(settings.points, settings.radius)
    parameters = chosen(model, settings.parameters)
    found = curves(
        loss, job.batches, parameters, filter_dims(model), settings.directions, places, job.config.seed, job.work
    )
    rows = [[_finite(cell) for cell in row] for row in found.tolist()]
    middle = len(places) // 2
    ends = (found[:, 0] + found[:, -1]) / 2 - value
    bend = (found[:, middle - 1] + found[:, middle + 1] - 2 * value) / places[middle + 1] ** 2
    result = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "places": places,
        "losses": rows,
        "mean": _over_directions(found.mean(axis=0)),
        "standard_deviation": _over_directions(found.std(axis=0, ddof=1)) if len(rows) > 1 else None,
        "rise_at_radius": _estimated(ends.tolist()),
        "curvature": _estimated(bend.tolist()),
    }
    return result, {"flatness.png": flatness_figure(result)}


def compare(job: Job) -> Outcome:
    """The checkpoint beside the baseline: losses, distance of the weights, the line between them, traces if asked."""
    checkpoint, other = job.asked[0].checkpoint, job.baseline
    assert other is not None
    if tokenizer_digest(checkpoint.tokenizer) != tokenizer_digest(other.tokenizer):
        raise ConfigError(f"baseline: {other.place} has another tokenizer, so that losses per token cannot be compared")
    model, baseline = job.load(checkpoint), job.load(other)
    (loss, value), (_, other_value) = job.loss(model, checkpoint), job.loss(baseline, other)
    result: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "baseline": other.name,
        "loss": value,
        "baseline_loss": other_value,
        "distance": None,
        "line": None,
    }
    figures = {}
    weights, origin = dict(model.named_parameters()), dict(baseline.named_parameters())
    if same_shapes(weights, origin):
        result["distance"] = _distances(model, baseline)
        found = line_losses(loss, job.batches, weights, origin, job.config.analyze.points, job.work).tolist()
        high = barrier(found)
        result["line"] = {"losses": [_finite(cell) for cell in found], "barrier": _finite(high)}
        figures["line.png"] = line_figure(result)
    if job.config.analyze.trace:
        result["trace"] = trace_of(job, model, checkpoint)
        result["baseline_trace"] = trace_of(job, baseline, other)
        draws = result["trace"]["draws"], result["baseline_trace"]["draws"]
        result["trace_difference"] = estimate([one - two for one, two in zip(*draws, strict=True)]).to_json()
    return result, figures


def _distances(model: PreTrainedModel, baseline: PreTrainedModel) -> dict[str, Any]:
    """By group and of all: |a - b|, and relative to |b|."""
    weights, origin = dict(model.named_parameters()), dict(baseline.named_parameters())
    squares, norms, groups = squared_distances(weights, origin), squared_norms(origin), group_names(model)
    found = {}
    for group in ("all", *GROUPS):
        names = [name for name in weights if group in ("all", groups[name])]
        if names:
            distance, norm = root_of_sum(squares, names), root_of_sum(norms, names)
            found[group] = {"distance": distance, "relative": distance / norm if norm else None}
    return found


def _over_directions(values: np.ndarray) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def _estimated(values: Sequence[float]) -> dict[str, Any] | None:
    return estimate(values).to_json() if all(map(math.isfinite, values)) else None
