"""Structural dropout against enumeration, and against subnetworks as EST runs them."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
import torch
from torch import Tensor

from est_cli.analysis.analysis_job import Loss, mean_loss
from est_cli.analysis.gates import Gates, expressible
from est_cli.analysis.structural_dropout import kinds_of, mean_outputs, regularisation
from est_cli.est import FULL, IndexGenerator, SamplingOptions, SamplingRates, Subnetwork, apply_est
from est_cli.est.layers import Taken
from est_cli.families import spec_of
from tests.lab.est_models import ALL_FAMILIES, build, config_of, tokens
from tests.lab.toys import LinearToy, alone, share_of, toy_spec

COLUMNS, KEPT = 6, 3
RATES = SamplingRates(p_m=0.5)


def toy(num_layers: int = 1) -> tuple[LinearToy, Loss]:
    """Linear in the columns, so its squared error is a parabola in what is drawn."""
    torch.manual_seed(0)
    model = LinearToy(num_layers).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    return model, lambda batch: (model(x) - y).square().sum()


def every_subset() -> list[Subnetwork]:
    return [Subnetwork(mlp_idx=torch.tensor([chosen])) for chosen in combinations(range(COLUMNS), KEPT)]


def test_the_expectation_is_that_of_all_subnetworks() -> None:
    model, loss = toy()
    handle = apply_est(model, toy_spec())
    complete = mean_loss(loss, 1)
    losses = []
    for subnetwork in every_subset():
        handle.activate(subnetwork)
        losses.append(mean_loss(loss, 1) - complete)
    handle.activate_full()
    exact = sum(losses) / comb(COLUMNS, KEPT)
    (found,) = regularisation(loss, 1, handle, IndexGenerator(toy_spec(), 0), {"columns": RATES}, 200, alone())
    assert found.kind == "columns" and found.measured.n == 200 and found.measured.standard_error is not None
    assert abs(found.measured.mean - exact) < 3 * found.measured.standard_error
    spread = torch.tensor(losses).std(correction=0).item()
    assert found.measured.standard_error == pytest.approx(spread / 200**0.5, rel=0.15)
    assert mean_loss(loss, 1) == complete, "the complete model is active again"


def test_the_second_order_is_exact_where_the_loss_is_a_parabola() -> None:
    """Draw by draw; and its mean over all subnetworks is half the covariance of the masks times the curvature."""
    model, loss = toy()
    spec = toy_spec()
    handle = apply_est(model, spec)
    (found,) = regularisation(loss, 1, handle, IndexGenerator(spec, 0), {"columns": RATES}, 20, alone())
    assert found.predicted is not None and found.rest is not None
    assert found.predicted.mean == pytest.approx(found.measured.mean, rel=1e-10)
    assert abs(found.rest.mean) < 1e-10 and found.rest.standard_error < 1e-10  # type: ignore[operator]

    gates = Gates(spec, next(model.parameters()))
    with gates.applied(handle.layers):
        hessian = torch.autograd.functional.hessian(
            lambda factors: _with(gates, factors, loss), gates.factors["column"]
        )
    hessian = hessian.reshape(COLUMNS, COLUMNS)
    variance = COLUMNS / KEPT - 1  # of one factor; of two of a layer together -variance / (N - 1)
    covariance = -variance / (COLUMNS - 1) * torch.ones_like(hessian)
    covariance.fill_diagonal_(variance)
    deltas = torch.stack([gates.delta(one)[1].flatten() for one in every_subset()])
    assert torch.allclose(deltas.T @ deltas / len(deltas), covariance) and deltas.mean(0).abs().max() < 1e-12
    foreseen = 0.5 * (covariance * hessian).sum().item()
    every = []
    for subnetwork in every_subset():
        handle.activate(subnetwork)
        every.append(mean_loss(loss, 1))
    handle.activate_full()
    assert sum(every) / len(every) - mean_loss(loss, 1) == pytest.approx(foreseen, rel=1e-10)


def _with(gates: Gates, factors: Tensor, loss: Loss) -> Tensor:
    gates.factors["column"] = factors
    return loss(0)


def test_of_several_layers_only_the_higher_orders_are_left() -> None:
    """Small noise: what the second order does not foresee falls faster than the noise."""
    model, loss = toy(num_layers=3)
    spec = toy_spec(num_layers=3)
    handle = apply_est(model, spec)
    with torch.no_grad():
        for layer in model.layers:
            layer.down.weight.mul_(0.02)
    (found,) = regularisation(loss, 1, handle, IndexGenerator(spec, 0), {"columns": RATES}, 30, alone())
    assert found.predicted is not None and found.rest is not None
    assert abs(found.rest.mean) < 0.02 * abs(found.measured.mean)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_factors_do_what_a_subnetwork_does(family: str) -> None:
    model = build(config_of(family), dtype=torch.float64).eval()
    spec = spec_of(model)
    handle = apply_est(model, spec)
    generator = IndexGenerator(spec, 0, SamplingOptions(layer_scale="inverse"))
    subnetwork = generator.draw(0, SamplingRates(0.5, 0.5, 0.6))
    assert expressible(spec) == (family != "olmo2"), "OLMo2 has a norm over all heads"
    if family == "olmo2":
        return
    gates = Gates(spec, next(model.parameters()))
    with torch.no_grad():
        handle.activate(subnetwork)
        expected = model(tokens()).logits
        handle.activate(FULL)
        complete = model(tokens()).logits
        for factors, delta in zip(gates.factors.values(), gates.delta(subnetwork), strict=True):
            factors.add_(delta)
        with gates.applied(handle.layers):
            found = model(tokens()).logits
        assert torch.allclose(found, expected, atol=1e-10) and not torch.allclose(found, complete, atol=1e-3)
        assert torch.equal(model(tokens()).logits, complete), "nothing of it stays"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_the_mean_output_of_a_module_is_the_complete_one(family: str) -> None:
    model = build(config_of(family), dtype=torch.float64).eval()
    spec = spec_of(model)
    handle = apply_est(model, spec)
    generator, rates = IndexGenerator(spec, 0), SamplingRates(0.6, 0.5, 1.0)
    found = mean_outputs(lambda: model(tokens(), use_cache=False), handle, generator, rates, 200, alone())
    assert len(found) == 2
    for one in found.values():
        assert one.standard_error is not None and 0 < one.standard_error < 0.2
        assert abs(one.mean - 1.0) < 3 * one.standard_error


def test_a_mean_without_the_factor_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without 1/p half of the units give half of the output."""
    model = build(config_of("llama"), dtype=torch.float64).eval()
    spec = spec_of(model)
    handle = apply_est(model, spec)
    scaled = Taken.of
    monkeypatch.setattr(Taken, "of", lambda taken, x: scaled(taken._replace(scale=1.0), x))
    generator, rates = IndexGenerator(spec, 0), SamplingRates(1.0, 0.5, 1.0)
    (one,) = mean_outputs(lambda: model(tokens(), use_cache=False), handle, generator, rates, 50, alone()).values()
    assert one.standard_error is not None and 1.0 - one.mean > 3 * one.standard_error


def test_kinds() -> None:
    both = SamplingRates(0.5, 1.0, 0.25)
    assert kinds_of(both) == {"heads": SamplingRates(p_h=0.5), "layers": SamplingRates(p_l=0.25), "all": both}
    assert list(kinds_of(SamplingRates(p_m=0.5))) == ["columns"]


def test_processes_share_the_draws() -> None:
    model, loss = toy()
    spec = toy_spec()
    handle = apply_est(model, spec)
    given = loss, 1, handle, IndexGenerator(spec, 0), {"columns": RATES}, 7
    (one,) = regularisation(*given, alone())
    parts = [regularisation(*given, share_of(rank, 2))[0] for rank in range(2)]
    assert sum(part.measured.mean for part in parts) == pytest.approx(one.measured.mean, rel=1e-12)
    assert all(part.measured.mean != 0.0 for part in parts)
