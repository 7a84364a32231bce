"""The loss along random directions that are normalised filter by filter (Li et al. 2018, section 4).

A direction d is Gaussian; then each filter of it gets the norm of the model's own,

    d_f <- d_f / |d_f| * |theta_f|

and biases and norms, which have one dimension, do not move. Without this a model whose weights are larger, in a network
that does not care for their size, would look flatter than it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from est_cli.analysis.curvature import Loss, mean_loss
from est_cli.analysis.work import Cells, Work
from est_cli.est.index import hash_numbers


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
def kept(parameters: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Copies of the weights, which are put back at the end of the block to the last bit."""
    origin = {name: weight.detach().clone() for name, weight in parameters.items()}
    try:
        yield origin
    finally:
        place(parameters, origin)


def place(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
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
    work: Work,
) -> Cells:
    """(directions, points): the mean loss at each place along each direction; infinite where it is not finite.

    In the middle it is the model's own, for all of them.
    """
    cells = np.zeros((directions, len(places)))
    with kept(parameters) as origin:
        cells[:, len(places) // 2] = mean_loss(loss, batches) if work.group.rank.first else 0.0
        own = work.own(directions * len(places))
        for number, cell_numbers in groupby(own, key=lambda cell: cell // len(places)):
            along = direction(origin, filters, seed, number)
            for point in (cell % len(places) for cell in cell_numbers):
                if point != len(places) // 2:
                    moved = {name: weight + places[point] * along[name] for name, weight in origin.items()}
                    place(parameters, moved)
                    cells[number, point] = mean_loss(loss, batches)
                work.done(batches)
    return work.gathered(np.nan_to_num(cells, nan=np.inf))
