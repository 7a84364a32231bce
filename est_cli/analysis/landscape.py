"""The loss away from a checkpoint: analysis=flatness along random directions, analysis=compare towards another one.

A direction d is Gaussian; then each filter of it gets the norm of the model's own (Li et al. 2018, section 4),

    d_f <- d_f / |d_f| * |theta_f|

and biases and norms, which have one dimension, do not move. Without this a model whose weights are larger, in a network
that does not care for their size, would look flatter than it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.analysis.analysis_job import AnalysisJob, Loss, Outcome, mean_loss
from est_cli.analysis.curvature import estimate, trace_of
from est_cli.analysis.display import flatness_figure, line_figure
from est_cli.analysis.parameters import GROUPS, chosen, filter_dims, group_names
from est_cli.common.errors import ConfigError
from est_cli.data.tokens.tokenizer import tokenizer_digest
from est_cli.distributed.workers import Cells, WorkShare
from est_cli.est.hashing import hash_numbers


def flatness(job: AnalysisJob) -> Outcome:
    """The loss along random directions, each filter of which is as long as the model's own."""
    settings, checkpoint = job.config.analyze, job.checkpoints[0].checkpoint
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
    return result, {"flatness.png": partial(flatness_figure, result)}


def compare(job: AnalysisJob) -> Outcome:
    """The checkpoint beside the baseline: losses, distance of the weights, the line between them, traces if asked."""
    checkpoint, other = job.checkpoints[0].checkpoint, job.baseline
    assert other is not None
    if tokenizer_digest(checkpoint.tokenizer) != tokenizer_digest(other.tokenizer):
        raise ConfigError(
            f"baseline: {other.place} has another tokenizer, so that losses per token cannot be compared; "
            "give one that was trained with the same"
        )
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
    figures: dict[str, Callable[[], Figure]] = {}
    weights, origin = dict(model.named_parameters()), dict(baseline.named_parameters())
    if same_shapes(weights, origin):
        result["distance"] = _distances(model, baseline)
        found = line_losses(loss, job.batches, weights, origin, job.config.analyze.points, job.work).tolist()
        high = barrier(found)
        result["line"] = {"losses": [_finite(cell) for cell in found], "barrier": _finite(high)}
        figures["line.png"] = partial(line_figure, result)
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


def positions(points: int, radius: float) -> list[float]:
    """An odd number of places from -radius to radius, evenly spaced, with 0 exactly in the middle."""
    half = points // 2
    return [radius * (place - half) / half for place in range(points)]


def direction(
    parameters: Mapping[str, Tensor], filters: Mapping[str, int], seed: int, number: int
) -> dict[str, Tensor]:
    """Direction number `number`, a pure function of the weights, the seed and the number; zero where no filter is.

    `filters`: name -> the dimension that the filters lie along.
    """
    generator = torch.Generator().manual_seed(hash_numbers((seed, number)))
    return {name: _normalised(weight, filters.get(name), generator) for name, weight in parameters.items()}


def _normalised(weight: Tensor, dim: int | None, generator: torch.Generator) -> Tensor:
    if dim is None:
        return torch.zeros_like(weight)
    drawn = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
    others = [other for other in range(weight.dim()) if other != dim]
    return drawn * (weight.detach().norm(dim=others, keepdim=True) / drawn.norm(dim=others, keepdim=True))


@contextmanager
def restored(parameters: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights, which are put back at the end of the block to the last bit."""
    origin = {name: weight.detach().clone() for name, weight in parameters.items()}
    try:
        yield origin
    finally:
        set_weights(parameters, origin)


def set_weights(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values` into the weights."""
    with torch.no_grad():
        for name, weight in parameters.items():
            weight.copy_(values[name])


def curves(
    loss: Loss,
    batches: int,
    parameters: Mapping[str, Tensor],
    filters: Mapping[str, int],
    directions: int,
    places: list[float],
    seed: int,
    work: WorkShare,
) -> Cells:
    """(directions, points): the mean loss at each place along each direction; infinite where it is not finite.

    In the middle it is the model's own, for all of them.
    """
    cells = np.zeros((directions, len(places)))
    with restored(parameters) as origin:
        cells[:, len(places) // 2] = mean_loss(loss, batches) if work.group.rank.first else 0.0
        own = work.own(directions * len(places))
        for number, cell_numbers in groupby(own, key=lambda cell: cell // len(places)):
            along = direction(origin, filters, seed, number)
            for point in (cell % len(places) for cell in cell_numbers):
                if point != len(places) // 2:
                    moved = {name: weight + places[point] * along[name] for name, weight in origin.items()}
                    set_weights(parameters, moved)
                    cells[number, point] = mean_loss(loss, batches)
                work.advance(batches)
    return work.gather(np.nan_to_num(cells, nan=np.inf))


def same_shapes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether the weights have the same names and shapes, so that there is a line between them."""
    return {name: weight.shape for name, weight in one.items()} == {name: w.shape for name, w in other.items()}


def squared_distances(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    """|one - other|^2 of each weight."""
    with torch.no_grad():
        return {name: _square(weight - other[name].to(weight.device)) for name, weight in one.items()}


def squared_norms(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """|weight|^2 of each."""
    return {name: _square(weight.detach()) for name, weight in weights.items()}


def root_of_sum(squares: Mapping[str, float], names: Sequence[str]) -> float:
    """The norm of the weights of these names together."""
    return math.sqrt(math.fsum(squares[name] for name in names))


def line_losses(
    loss: Loss,
    batches: int,
    parameters: Mapping[str, Tensor],
    begin: Mapping[str, Tensor],
    points: int,
    work: WorkShare,
) -> Cells:
    """(points,): the mean loss of (1 - t) * begin + t * weights, t from 0 to 1 in even steps."""
    cells = np.zeros(points)
    with restored(parameters) as end:
        for point in work.own(points):
            t = point / (points - 1)
            set_weights(parameters, {name: torch.lerp(begin[name].detach().to(w), w, t) for name, w in end.items()})
            cells[point] = mean_loss(loss, batches)
            work.advance(batches)
    return work.gather(np.nan_to_num(cells, nan=np.inf))


def barrier(losses: Sequence[float]) -> float:
    """How far the loss rises above the straight line between its values at both ends; 0 where it nowhere does.

    (Frankle et al. 2020 for the idea; this is the form of Entezari et al. 2022.)
    """
    steps = len(losses) - 1
    chord = [losses[0] + (losses[-1] - losses[0]) * point / steps for point in range(len(losses))]
    return max(found - straight for found, straight in zip(losses, chord, strict=True))


def _square(tensor: Tensor) -> float:
    return tensor.double().square().sum().item()
