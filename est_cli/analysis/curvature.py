"""Products with the Hessian of the loss, its trace by Hutchinson's estimator, and analysis=hessian_trace.

    trace(H) = E[v^T H v],  v_i = +1 or -1 with equal chances        (Hutchinson 1990)

of variance 2 * (sum of the squares of H off its diagonal) for one v. H v is a gradient of the gradient, so H itself is
never there. Of a group of parameters, v_g^T (H v)_g has the trace of the group's own block as its mean.

The loss is given batch by batch, loss(b) being the share of batch b in the mean over all tokens: H is a sum over
batches. P parameter tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.analysis.analysis_job import AnalysisJob, Loss, Outcome
from est_cli.analysis.display import transitions_figure
from est_cli.analysis.parameters import chosen, group_names, sizes
from est_cli.common.errors import NumericsError
from est_cli.config import Parameters
from est_cli.config.resolve import resolve
from est_cli.config.stored import stored_config
from est_cli.distributed.workers import Cells, WorkShare
from est_cli.est.hashing import hash_numbers
from est_cli.models.pretrained import Checkpoint
from est_cli.storage.run_dir import run_of

PRODUCT_COST = 4.0
"""Of a product with the Hessian, in forward passes."""


@dataclass(frozen=True)
class Estimate:
    mean: float
    standard_error: float | None
    """The standard deviation of the draws (n - 1) divided by the square root of n; None for a single draw."""
    n: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in analysis.json."""
        return asdict(self)


def estimate(draws: Sequence[float]) -> Estimate:
    """Of at least one draw."""
    n = len(draws)
    return Estimate(fmean(draws), stdev(draws) / math.sqrt(n) if n > 1 else None, n)


def hessian_trace(job: AnalysisJob) -> Outcome:
    """The trace of each checkpoint, on the same text and with the same probes."""
    found = []
    for opened in job.checkpoints:
        traced = trace_of(job, job.load(opened.checkpoint), opened.checkpoint)
        stage = None if opened.step is None else stage_of(opened.checkpoint, opened.step)
        found.append({"step": opened.step, "stage": stage, **traced})
        job.progress.line(f"{opened.checkpoint.name}: trace {traced['trace']['mean']:.6g}; {job.progress.left()} left")
    if not job.config.analyze.transitions:
        return {key: value for key, value in found[0].items() if key not in ("step", "stage")}, {}
    return {"checkpoints": found}, {"transitions.png": partial(transitions_figure, found)}


def trace_of(job: AnalysisJob, model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Any]:
    """The trace over the chosen weights, over each group of them, and without embeddings and LM head.

    Every group's is that of its own block of the Hessian, so they add up.
    """
    settings = job.config.analyze
    parameters, groups = chosen(model, settings.parameters), group_names(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    loss, value = job.loss(model, checkpoint)
    forms = quadratic_forms(loss, job.batches, parameters, settings.probes, job.config.seed, job.work)
    counts = sizes(parameters, groups)
    columns = {group: [groups[name] == group for name in parameters] for group in counts}
    result = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "weights": sum(counts.values()),
        "trace": _estimated_trace(forms),
        "groups": {group: {"weights": counts[group], **_estimated_trace(forms[:, columns[group]])} for group in counts},
        "draws": forms.sum(axis=1).tolist(),
    }
    if settings.parameters is Parameters.all and len(counts) > 1 and "embeddings" in counts:
        result["without_embeddings"] = _estimated_trace(forms[:, ~np.array(columns["embeddings"])])
    return result


def stage_of(checkpoint: Checkpoint, step: int) -> int | None:
    """The stage of the last step that was trained before `step`; None where the run is not known."""
    run = run_of(Path(checkpoint.place))
    return None if run is None else resolve(stored_config(run)).scheduler.stage_at(max(step - 1, 0))


def _estimated_trace(forms: Cells) -> dict[str, Any]:
    return estimate(forms.sum(axis=1).tolist()).to_json()


def quadratic_forms(
    loss: Loss, batches: int, parameters: Mapping[str, Tensor], probes: int, seed: int, work: WorkShare
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
            work.advance(PRODUCT_COST)
    forms = work.gather(cells).sum(axis=1)
    if not np.isfinite(forms).all():
        raise NumericsError("checkpoint: the second derivatives of its loss are not finite")
    return forms


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


def dot(one: Tensor, other: Tensor) -> float:
    """In double precision: a sum over millions of entries of both signs."""
    return torch.sum(one * other, dtype=torch.float64).item()
