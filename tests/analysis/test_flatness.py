"""Directions by their norms, curves and lines by losses that are known everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from est_cli.analysis.analysis_job import mean_loss
from est_cli.analysis.landscape import (
    barrier,
    curves,
    direction,
    line_losses,
    positions,
    root_of_sum,
    same_shapes,
    squared_distances,
    squared_norms,
)
from est_cli.analysis.parameters import chosen, filter_dims
from est_cli.common.errors import ConfigError
from est_cli.config import Parameters
from tests.lab.toys import alone, gpt2, llama, loss_of, share_of


def test_every_filter_of_a_direction_is_as_long_as_the_models_own() -> None:
    """GPT-2's Conv1D keeps its weights the other way round: there a filter is a column."""
    model = gpt2()
    weights, filters = dict(model.named_parameters()), filter_dims(model)
    found = direction(weights, filters, seed=0, number=0)
    assert found.keys() == weights.keys()
    assert filters["transformer.h.0.attn.c_attn.weight"] == 1 and filters["transformer.wte.weight"] == 0
    for name, weight in weights.items():
        if weight.dim() == 1:
            assert not found[name].any(), f"{name} is a bias or a norm"
            continue
        dim = 0 if filters[name] == 1 else 1  # summed over: the other one
        assert torch.allclose(found[name].norm(dim=dim), weight.norm(dim=dim)), name
        assert not torch.allclose(found[name].norm(dim=1 - dim), weight.norm(dim=1 - dim)), name


def test_directions_are_different_and_a_pure_function_of_seed_and_number() -> None:
    model = llama()
    weights, filters = dict(model.named_parameters()), filter_dims(model)
    drawn = [direction(weights, filters, *which) for which in ((0, 0), (0, 0), (0, 1), (1, 0))]
    flat = [torch.cat([part.flatten() for part in one.values()]) for one in drawn]
    assert torch.equal(flat[0], flat[1])
    for other in flat[2:]:
        assert abs(torch.cosine_similarity(flat[0], other, dim=0)) < 0.2


class Parabola(nn.Module):
    """loss = |W - M|^2 / 2 + |b|^2, whose curvature along d is |d_W|^2."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3).double()
        self.middle = torch.randn(3, 5, dtype=torch.float64)

    def loss(self, batch: int) -> torch.Tensor:
        return (self.linear.weight - self.middle).square().sum() / 2 + self.linear.bias.square().sum()


def test_a_curve_is_the_loss_at_each_place() -> None:
    model = Parabola()
    weights, filters, places = dict(model.named_parameters()), filter_dims(model), positions(5, 0.5)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    found = curves(model.loss, 1, weights, filters, 3, places, 0, alone())
    assert places == [-0.5, -0.25, 0.0, 0.25, 0.5] and found.shape == (3, 5)
    assert all(torch.equal(weights[name], before[name]) for name in weights), "put back to the last bit"
    for number, row in enumerate(found):
        along = direction(weights, filters, 0, number)["linear.weight"]
        slope = ((model.linear.weight - model.middle) * along).sum().item()
        square = along.square().sum().item()
        expected = [mean_loss(model.loss, 1) + a * slope + a * a * square / 2 for a in places]
        assert row.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[0, 0] != found[1, 0]


def test_the_middle_is_the_models_own_loss_and_processes_share_the_places() -> None:
    model = gpt2()
    loss, batches = loss_of(model)
    given = loss, batches, dict(model.named_parameters()), filter_dims(model), 2, positions(3, 1.0), 0
    found = curves(*given, alone())
    assert found[:, 1].tolist() == [mean_loss(loss, batches)] * 2
    assert (found[:, [0, 2]] > found[0, 1] - 0.5).all() and len(set(found.ravel())) == 5
    assert np.array_equal(sum(curves(*given, share_of(rank, 2)) for rank in range(2)), found)


def test_a_place_where_the_loss_is_not_a_number_is_infinitely_high() -> None:
    model = Parabola()
    weights = dict(model.named_parameters())
    start = model.linear.weight.detach().clone()

    def loss(batch: int) -> torch.Tensor:
        return model.loss(batch) if torch.equal(model.linear.weight, start) else torch.tensor(math.nan)

    assert (
        curves(loss, 1, weights, filter_dims(model), 1, positions(3, 1.0), 0, alone())[0, [0, 2]].tolist()
        == [math.inf] * 2
    )
    assert torch.equal(model.linear.weight, start)


def test_a_choice_of_weights() -> None:
    model = gpt2()
    assert set(chosen(model, Parameters.all)) == {name for name, _ in model.named_parameters()}
    body = set(chosen(model, Parameters.body))
    assert body | set(chosen(model, Parameters.embeddings)) == set(chosen(model, Parameters.all))
    assert set(chosen(model, Parameters.embeddings)) == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert body == set().union(
        *(chosen(model, kind) for kind in (Parameters.attention, Parameters.mlp, Parameters.norms))
    )
    with pytest.raises(ConfigError, match=r"^analyze\.parameters: other has no weights .* has embeddings, attention"):
        chosen(model, Parameters.other)


def test_the_line_between_two_models() -> None:
    model, other = gpt2(0), gpt2(1)
    loss, batches = loss_of(model)
    weights, origin = dict(model.named_parameters()), dict(other.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    found = line_losses(loss, batches, weights, origin, 5, alone())
    other_loss, _ = loss_of(other)
    assert (found[0], found[-1]) == (mean_loss(other_loss, batches), mean_loss(loss, batches))
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    middle = gpt2()
    for name, weight in middle.named_parameters():
        weight.data = (weights[name].data + origin[name].data) / 2
    assert found[2] == pytest.approx(mean_loss(loss_of(middle)[0], batches), rel=1e-12)
    parts = [line_losses(loss, batches, weights, origin, 5, share_of(rank, 3)) for rank in range(3)]
    assert np.array_equal(sum(parts), found)


def test_a_barrier_is_the_height_above_the_chord() -> None:
    x, well = torch.ones(1, requires_grad=True), {"x": -torch.ones(1)}
    double_well = line_losses(lambda batch: (x * x - 1).square().sum(), 1, {"x": x}, well, 9, alone())
    assert barrier(double_well.tolist()) == pytest.approx(1.0) and x.item() == 1.0
    assert barrier([2.0, 1.0, 1.0, 0.5]) == 0.0, "below the chord there is none"
    assert barrier([1.0, 3.0, 3.0]) == pytest.approx(1.0)


def test_distances() -> None:
    one, other = {"a": torch.tensor([3.0, 0.0]), "b": torch.ones(4)}, {"a": torch.zeros(2), "b": torch.ones(4) * 3}
    assert squared_distances(one, other) == {"a": 9.0, "b": 16.0} and squared_norms(other) == {"a": 0.0, "b": 36.0}
    assert root_of_sum(squared_distances(one, other), ["a", "b"]) == 5.0
    assert same_shapes(one, other) and not same_shapes(one, {"a": torch.zeros(2), "b": torch.ones(5)})
    assert not same_shapes(one, {"a": torch.zeros(2)})
