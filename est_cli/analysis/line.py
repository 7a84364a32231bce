"""Two models of the same architecture: how far apart they are, and the loss on the straight line between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from est_cli.analysis.curvature import Loss, mean_loss
from est_cli.analysis.flatness import kept, place
from est_cli.analysis.work import Cells, Work


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
    loss: Loss, batches: int, parameters: Mapping[str, Tensor], begin: Mapping[str, Tensor], points: int, work: Work
) -> Cells:
    """(points,): the mean loss of (1 - t) * begin + t * weights, t from 0 to 1 in even steps."""
    cells = np.zeros(points)
    with kept(parameters) as end:
        for point in work.own(points):
            t = point / (points - 1)
            place(parameters, {name: torch.lerp(begin[name].detach().to(w), w, t) for name, w in end.items()})
            cells[point] = mean_loss(loss, batches)
            work.done(batches)
    return work.gathered(np.nan_to_num(cells, nan=np.inf))


def barrier(losses: Sequence[float]) -> float:
    """How far the loss rises above the straight line between its values at both ends; 0 where it nowhere does.

    (Frankle et al. 2020 for the idea; this is the form of Entezari et al. 2022.)
    """
    steps = len(losses) - 1
    chord = [losses[0] + (losses[-1] - losses[0]) * point / steps for point in range(len(losses))]
    return max(found - straight for found, straight in zip(losses, chord, strict=True))


def _square(tensor: Tensor) -> float:
    return tensor.double().square().sum().item()
