"""analysis=draws: how far the losses of subnetworks lie apart, and which units they cannot do without.

Excess is the loss of a subnetwork minus that of the complete model, on the same text. A unit (a query head, an MLP
column, a layer) is absent as a draw of all but one unit of its kind and layer has it: its factor is 0, and that of the
others N/(N-1); see gates.py. Two heads of a layer that cancel each other are worth little together, and each alone does
harm: the excess without both is then far below the sum of the excesses without one of them.

Standard errors of units and pairs are over the sequences of the text, whose losses are compared one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.analysis.analysis_job import AnalysisJob, Outcome, Text, loss_on
from est_cli.analysis.curvature import estimate
from est_cli.analysis.display import draws_figure
from est_cli.analysis.gates import Gates, expressible
from est_cli.analysis.structural_dropout import complete_again, family_spec
from est_cli.config import AnalyzeConfig
from est_cli.config.analyze import rates_asked
from est_cli.config.method import options_of
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingRates, apply_est
from est_cli.est.sizes import full_sizes, sample_sizes
from est_cli.models.documents import document_inputs

KINDS = {"heads": ("p_h",), "columns": ("p_m",), "layers": ("p_l",), "all": ("p_h", "p_m", "p_l")}
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Unit:
    """One of the units that a draw takes or leaves."""

    kind: str
    """`head`, `column` or `layer`."""
    layer: int
    number: int
    """In its layer; of a layer 0."""


def draws(job: AnalysisJob) -> Outcome:
    """The distribution of the excess over draws by kind and rate, the costliest units, and pairs of heads."""
    config, checkpoint = job.config, job.checkpoints[0].checkpoint
    spec = family_spec(checkpoint)
    model = job.load(checkpoint).requires_grad_(False)
    _, value = job.loss(model, checkpoint)
    handle = apply_est(model, spec)
    complete = sequence_losses(model, job.text)
    found = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "draws": config.analyze.draws,
        "distributions": distributions(job, model, handle, complete),
        "units": None,
        "pairs": None,
    }
    if expressible(spec):
        units, pairs = absences(job, model, handle, complete)
        found |= {"units": units, "pairs": pairs}
    return found, {"draws.png": partial(draws_figure, found)}


def rates_drawn(
    config: AnalyzeConfig, spec: ModelSpec, kinds: Mapping[str, Sequence[str]] = KINDS
) -> list[tuple[str, float, SamplingRates]]:
    """(kind, rate, the rates) of what is drawn; kinds that the model does not have, or cannot sample, are left out."""
    found, options = [], options_of(config.sampling)
    for kind, keys in kinds.items():
        for rate in rates_asked(config):
            chosen: dict[str, Any] = dict.fromkeys(keys, rate)
            rates = SamplingRates(**chosen)
            try:
                sizes = sample_sizes(spec, rates, options)
            except ValueError:
                continue
            if sizes != full_sizes(spec):
                found.append((kind, rate, rates))
    return found


def distributions(
    job: AnalysisJob, model: PreTrainedModel, handle: EstHandle, complete: np.ndarray
) -> list[dict[str, Any]]:
    """The excess of each draw, by kind and rate, with its quantiles. The complete model is active when it returns."""
    config, drawn = job.config, rates_drawn(job.config, handle.spec)
    generator = IndexGenerator(handle.spec, config.seed, options_of(config.sampling))
    cells = [(number, rates) for _, _, rates in drawn for number in range(config.analyze.draws)]
    excess = np.zeros(len(cells))
    with complete_again(handle):
        for cell in job.work.own(len(cells)):
            handle.activate(generator.draw(*cells[cell]))
            excess[cell] = float((sequence_losses(model, job.text) - complete).mean())
            job.work.advance(job.batches)
    rows = job.work.gather(excess).reshape(len(drawn), config.analyze.draws)
    return [
        {"kind": kind, "rate": rate, **_spread(row)} for (kind, rate, _), row in zip(drawn, rows.tolist(), strict=True)
    ]


def _spread(excess: list[float]) -> dict[str, Any]:
    low, middle, high = np.quantile(excess, QUANTILES).tolist()
    return {
        "excess": estimate(excess).to_json(),
        "standard_deviation": float(np.std(excess, ddof=1)),
        "least": min(excess),
        "quantile_05": low,
        "median": middle,
        "quantile_95": high,
        "most": max(excess),
        "each": excess,
    }


def absences(
    job: AnalysisJob, model: PreTrainedModel, handle: EstHandle, complete: np.ndarray
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the model loses without single units, the costliest first, and without pairs of the costliest heads."""
    spec, most = handle.spec, job.config.analyze.units
    gates = Gates(spec, next(handle.layers[0].parameters()))
    with gates.applied(handle.layers):
        heads = [Unit("head", layer, n) for layer in range(spec.num_layers) for n in range(spec.num_heads)]
        layers = [Unit("layer", layer, 0) for layer in range(spec.num_layers)]
        wanted = [(unit,) for unit in (*heads, *layers, *_costly_columns(job, model, gates, most))]
        alone = dict(zip(wanted, _without(job, model, gates, wanted, complete), strict=True))
        ranked = sorted(wanted, key=lambda units: -alone[units].mean())
        costly = [units[0] for units in ranked if units[0].kind == "head"][:most]
        pairs = [(a, b) for a, b in combinations(costly, 2) if a.layer == b.layer] if spec.num_heads > 2 else []
        both = _without(job, model, gates, pairs, complete)
    units = [
        {**vars(unit), "excess": estimate(alone[unit,].tolist()).to_json()}
        for kind in ("head", "column", "layer")
        for unit in [units[0] for units in ranked if units[0].kind == kind][:most]
    ]
    beyond = [excess - alone[a,] - alone[b,] for (a, b), excess in zip(pairs, both, strict=True)]
    told = [
        {
            "layer": a.layer,
            "heads": [a.number, b.number],
            "excess": estimate(excess.tolist()).to_json(),
            "beyond_the_sum": estimate(more.tolist()).to_json(),
        }
        for (a, b), excess, more in zip(pairs, both, beyond, strict=True)
    ]
    return units, sorted(told, key=lambda pair: pair["beyond_the_sum"]["mean"])


def _without(
    job: AnalysisJob, model: PreTrainedModel, gates: Gates, absent: Sequence[tuple[Unit, ...]], complete: np.ndarray
) -> np.ndarray:
    """(len(absent), sequences): the excess of each sequence where these units are absent."""
    excess = np.zeros((len(absent), len(complete)))
    for cell in job.work.own(len(absent)):
        with gates.absent([(unit.kind, unit.layer, unit.number) for unit in absent[cell]]):
            excess[cell] = sequence_losses(model, job.text) - complete
        job.work.advance(job.batches)
    return job.work.gather(excess)


def _costly_columns(job: AnalysisJob, model: PreTrainedModel, gates: Gates, most: int) -> Iterator[Unit]:
    """Of the columns, too many to leave out each, those whose absence costs most to first order in their factors."""
    if "column" not in gates.factors:
        return
    factors, loss = gates.factors["column"], loss_on(model, job.text)
    slope = torch.zeros_like(factors, requires_grad=False)
    for batch in range(job.batches):
        slope += torch.autograd.grad(loss(batch), factors)[0]
    for index in (-slope).flatten().topk(min(most, slope.numel())).indices.tolist():
        layer, number = divmod(index, slope.shape[1])
        yield Unit("column", layer, number)


def sequence_losses(model: PreTrainedModel, text: Text) -> np.ndarray:
    """(sequences,) float64: the mean cross-entropy (nats) of each sequence's predictions, without a graph."""
    return np.concatenate([_losses(model, tokens, text.end_of_text) for tokens in text.batches])


@torch.no_grad()
def _losses(model: PreTrainedModel, tokens: Tensor, end_of_text: int | None) -> np.ndarray:
    tokens = tokens.to(model.device)
    apart = document_inputs(model, tokens, end_of_text)
    logits = model(input_ids=tokens, use_cache=False, **apart).logits[:, :-1]
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    found: np.ndarray = losses.mean(1).double().cpu().numpy()
    return found


def cost_of_draws(config: AnalyzeConfig, spec: ModelSpec, batches: int) -> float:
    """In forward passes of a batch, as far as it is known before."""
    count = len(rates_drawn(config, spec)) * config.analyze.draws
    if expressible(spec):
        count += spec.num_layers * (spec.num_heads + 1) + config.analyze.units
    return float(count * batches)
