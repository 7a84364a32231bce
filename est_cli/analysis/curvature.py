"""Products with the Hessian of the loss, and its trace by Hutchinson's estimator.

    trace(H) = E[v^T H v],  v_i = +1 or -1 with equal chances        (Hutchinson 1990)

of variance 2 * (sum of the squares of H off its diagonal) for one v. H v is a gradient of the gradient, so H itself is
never there. Of a group of parameters, v_g^T (H v)_g has the trace of the group's own block as its mean.

The loss is given batch by batch, loss(b) being the share of batch b in the mean over all tokens: H is a sum over
batches. P parameter tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from est_cli.analysis.work import Cells, Work
from est_cli.common.errors import NumericsError
from est_cli.est.index import hash_numbers

Loss = Callable[[int], Tensor]
"""The share of a batch in the mean loss, with its graph."""

PRODUCT_COST = 4.0
"""Of a product with the Hessian, in forward passes."""


def mean_loss(loss: Loss, batches: int) -> float:
    """The sum over all batches, without a graph."""
    with torch.no_grad():
        return sum(loss(batch).item() for batch in range(batches))


def graph_of_gradients(loss: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients by `inputs`, zero for one that has no part in the loss; differentiable once more."""
    return torch.autograd.grad(loss, inputs, create_graph=True, materialize_grads=True)


def hessian_product(gradients: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """H v, in the shapes of `inputs`; `gradients` as graph_of_gradients() gives them, which may be used again."""
    pairs = [(gradient, along) for gradient, along in zip(gradients, v, strict=True) if gradient.requires_grad]
    if not pairs:  # the loss is linear
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    outputs, along = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, along, retain_graph=True, materialize_grads=True)


def probe(inputs: Sequence[Tensor], seed: int, number: int) -> list[Tensor]:
    """Vector number `number` of +1 and -1 (Rademacher), a pure function of the shapes, the seed and the number."""
    generator = torch.Generator().manual_seed(hash_numbers((seed, number)))  # on the CPU: the same on every device
    return [_signs(tensor, generator) for tensor in inputs]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8)
    return bits.to(like.device, like.dtype).mul_(2).sub_(1)


def quadratic_forms(
    loss: Loss, batches: int, parameters: Mapping[str, Tensor], probes: int, seed: int, work: Work
) -> Cells:
    """(probes, P): v^T (H v) of each probe, split up by parameter; a row's sum is v^T H v.

    Raises NumericsError where one is not finite. Products with the same batch share its graph.
    """
    inputs = list(parameters.values())
    cells = np.zeros((probes, batches, len(inputs)))
    for batch, own in groupby(work.own(batches * probes), key=lambda cell: cell // probes):
        gradients = graph_of_gradients(loss(batch), inputs)
        for number in (cell % probes for cell in own):
            v = probe(inputs, seed, number)
            product = hessian_product(gradients, inputs, v)
            cells[number, batch] = [dot(a, b) for a, b in zip(v, product, strict=True)]
            work.done(PRODUCT_COST)
    forms = work.gathered(cells).sum(axis=1)
    if not np.isfinite(forms).all():
        raise NumericsError("checkpoint: the second derivatives of its loss are not finite")
    return forms


def dot(one: Tensor, other: Tensor) -> float:
    """In double precision: a sum over millions of entries of both signs."""
    return torch.sum(one * other, dtype=torch.float64).item()
