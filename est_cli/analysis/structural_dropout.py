"""analysis=structural_dropout: what random subnetworks add to the loss, and that 1/p keeps the modules' mean output.

The paper explains EST by it: the expected loss of a random subnetwork is the loss of the complete model plus a
regularisation term,

    R(p) = E[L(subnetwork)] - L(complete),

which to second order is half the curvature of the loss along the noise of the masks (gates.py), and which training at
these rates keeps small. Here R is measured at a given checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from est_cli.analysis.analysis_job import AnalysisJob, Loss, Outcome, mean_loss
from est_cli.analysis.curvature import PRODUCT_COST, Estimate, dot, estimate, graph_of_gradients, hessian_product
from est_cli.analysis.gates import Gates, expressible, outputs_of
from est_cli.common.errors import ConfigError
from est_cli.config import AnalyzeConfig
from est_cli.config.method import options_of
from est_cli.distributed.workers import WorkShare
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingRates, Subnetwork, apply_est
from est_cli.est.sizes import realised_rates, sample_sizes
from est_cli.families import spec_of
from est_cli.models.pretrained import Checkpoint


@dataclass(frozen=True)
class Regularisation:
    """R(p) of one kind of sampling."""

    kind: str
    measured: Estimate
    predicted: Estimate | None
    """First and second order in the masks' noise, of the same draws; None where factors cannot say what they do."""
    rest: Estimate | None
    """measured - predicted, draw by draw."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in analysis.json."""
        parts = {"measured": self.measured, "predicted": self.predicted, "rest": self.rest}
        return {"kind": self.kind, **{name: part and part.to_json() for name, part in parts.items()}}


def structural_dropout(job: AnalysisJob) -> Outcome:
    """The regularisation term of each kind of sampling, its second-order prediction, and the mean of the outputs."""
    config, checkpoint = job.config, job.checkpoints[0].checkpoint
    spec, kinds = spec_for(checkpoint, config), kinds_of(rates_of(config))
    model = job.load(checkpoint).requires_grad_(False)
    loss, value = job.loss(model, checkpoint)
    handle = apply_est(model, spec)
    generator = IndexGenerator(spec, config.seed, options_of(config.sampling))
    found = regularisation(loss, job.batches, handle, generator, kinds, config.analyze.draws, job.work)

    def run() -> None:
        with torch.no_grad():
            model(input_ids=job.text.batches[0].to(model.device), use_cache=False)

    outputs = mean_outputs(run, handle, generator, rates_of(config), config.analyze.draws, job.work)
    sizes = sample_sizes(spec, rates_of(config), options_of(config.sampling))
    result = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "draws": config.analyze.draws,
        "realised": vars(realised_rates(spec, [(sizes, 1)])),
        "regularisation": [one.to_json() for one in found],
        "mean_output": {path: one.to_json() for path, one in outputs.items()},
    }
    return result, {}


def rates_of(config: AnalyzeConfig) -> SamplingRates:
    return SamplingRates(**vars(config.stage))


def spec_for(checkpoint: Checkpoint, config: AnalyzeConfig) -> ModelSpec:
    """Raises ConfigError for a family that EST does not know, and where the rates do not fit the model."""
    spec = family_spec(checkpoint)
    try:
        sample_sizes(spec, rates_of(config), options_of(config.sampling))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return spec


def family_spec(checkpoint: Checkpoint) -> ModelSpec:
    """Raises ConfigError for a family that EST does not know."""
    try:
        return spec_of(checkpoint.config)
    except ValueError as error:
        raise ConfigError(str(error).replace("model:", "checkpoint:", 1)) from error


def kinds_of(rates: SamplingRates) -> dict[str, SamplingRates]:
    """Each rate below 1 by itself, and where these are several all of them together."""
    alone = {
        "heads": SamplingRates(p_h=rates.p_h),
        "columns": SamplingRates(p_m=rates.p_m),
        "layers": SamplingRates(p_l=rates.p_l),
    }
    found = {kind: one for kind, one in alone.items() if not one.full}
    return {**found, "all": rates} if len(found) > 1 else found


def regularisation(
    loss: Loss,
    batches: int,
    handle: EstHandle,
    generator: IndexGenerator,
    kinds: Mapping[str, SamplingRates],
    draws: int,
    work: WorkShare,
) -> list[Regularisation]:
    """R of each kind, from `draws` subnetworks each. The complete model is active when it returns, and in `loss`."""
    complete = mean_loss(loss, batches)
    drawn = [(number, rates) for rates in kinds.values() for number in range(draws)]
    own = work.own(len(drawn))
    subnetworks = {cell: generator.draw(*drawn[cell]) for cell in own}
    measured = np.zeros(len(drawn))
    with complete_again(handle):
        for cell, subnetwork in subnetworks.items():
            handle.activate(subnetwork)
            measured[cell] = mean_loss(loss, batches) - complete
            work.advance(batches)
    by_kind = work.gather(measured).reshape(len(kinds), draws)
    if not expressible(handle.spec):
        return [
            Regularisation(kind, estimate(row), None, None) for kind, row in zip(kinds, by_kind.tolist(), strict=True)
        ]
    predicted = np.zeros(len(drawn))
    for cell, value in _predictions(loss, batches, handle, subnetworks, work).items():
        predicted[cell] = value
    foreseen = work.gather(predicted).reshape(len(kinds), draws)
    rows = zip(by_kind.tolist(), foreseen.tolist(), (by_kind - foreseen).tolist(), strict=True)
    return [Regularisation(kind, *map(estimate, row)) for kind, row in zip(kinds, rows, strict=True)]


def _predictions(
    loss: Loss, batches: int, handle: EstHandle, subnetworks: Mapping[int, Subnetwork], work: WorkShare
) -> dict[int, float]:
    """g . delta + 1/2 delta^T H delta of each subnetwork."""
    gates = Gates(handle.spec, next(handle.layers[0].parameters()))
    found = dict.fromkeys(subnetworks, 0.0)
    with gates.applied(handle.layers):
        for batch in range(batches if subnetworks else 0):
            gradients = graph_of_gradients(loss(batch), gates.inputs)
            for cell, subnetwork in subnetworks.items():
                delta = gates.delta(subnetwork)
                product = hessian_product(gradients, gates.inputs, delta)
                found[cell] += _sum_of_dots(gradients, delta) + 0.5 * _sum_of_dots(product, delta)
                work.advance(PRODUCT_COST)
    return found


def mean_outputs(
    run: Any, handle: EstHandle, generator: IndexGenerator, rates: SamplingRates, draws: int, work: WorkShare
) -> dict[str, Estimate]:
    """Projection out of a module -> how its output under a subnetwork compares with the complete model's.

    A value of 1 is what 1/p promises: <y_S, y> / <y, y>, summed over all layers, where y is the complete module's
    output and y_S the subnetwork's for the same input. `run()` is a forward pass of the complete model. Heads and
    columns are drawn by themselves, so that the input of what is compared is not sampled.
    """
    alone = {"head": SamplingRates(p_h=rates.p_h), "column": SamplingRates(p_m=rates.p_m)}
    found = {}
    calls = _layer_inputs(run, handle)
    for projection in outputs_of(handle.spec):
        wanted = alone[projection.unit]
        if wanted.full:
            continue
        full = _outputs(handle, calls, projection.path)
        size = sum(dot(y, y) for y in full)
        values = np.zeros(draws)
        with complete_again(handle):
            for number in work.own(draws):
                handle.activate(generator.draw(number, wanted))
                drawn = _outputs(handle, calls, projection.path)
                values[number] = sum(dot(y_s, y) for y_s, y in zip(drawn, full, strict=True)) / size
                work.advance(1.0)
        found[projection.path] = estimate(work.gather(values).tolist())
    return found


def _layer_inputs(run: Any, handle: EstHandle) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each layer is called with in a forward pass of the complete model."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in handle.layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _outputs(handle: EstHandle, calls: list[tuple[tuple[Any, ...], dict[str, Any]]], path: str) -> list[Tensor]:
    """What the module at `path` gives in each layer, when the layers are called as in `calls`."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        outputs.append(output)

    for layer, (args, kwargs) in zip(handle.layers, calls, strict=True):
        hook = layer.get_submodule(path).register_forward_hook(note)
        try:
            with torch.no_grad():
                layer(*args, **kwargs)
        finally:
            hook.remove()
    return outputs


@contextmanager
def complete_again(handle: EstHandle) -> Iterator[None]:
    """Behind the block the complete model is active."""
    try:
        yield
    finally:
        handle.activate_full()


def _sum_of_dots(ones: Any, others: Any) -> float:
    return sum(dot(one, other) for one, other in zip(ones, others, strict=True))
