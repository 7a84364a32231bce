"""Rates by layer: their means, the chances of layers to run, what is computed and what it costs."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pytest
import torch

from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, sample_sizes, three_stage
from est_cli.est.flops import ledger_of, planned_ledger
from est_cli.est.kept import kept_units, layer_chances, varies
from est_cli.est.sizes import MicroBatchSplit, SampleSizes
from est_cli.est.spec import Kept
from est_cli.est.subnetwork import Subnetwork, sizes_of
from est_cli.est.systematic import systematic
from est_cli.families import spec_of
from tests.est.test_equivalence import assert_same_pass, sampled_model
from tests.lab.est_models import build, config_of, gpt2_config, llama_config, tokens
from tests.lab.reference import forward_backward, masked_dense

BY_LAYER = (0.4, 0.5, 0.6, 0.7, 0.8)
RATES = SamplingRates(0.6, 0.6, 0.6, by_layer=BY_LAYER)
"""The mean of the entries, so that they are the rates."""


def test_at_their_mean_the_entries_are_the_rates() -> None:
    for layer, expected in enumerate(BY_LAYER):
        assert RATES.of_layer(0.6, layer) == pytest.approx(expected, abs=1e-12)
    assert kept_units(spec_of(gpt2_config()), RATES, SamplingOptions()) == (
        Kept(2, 2, 9),
        Kept(3, 3, 12),
        Kept(3, 3, 14),
        Kept(4, 4, 16),
        Kept(4, 4, 18),
    )


@pytest.mark.parametrize("p", [0.45, 0.6, 0.9, 1.0])
def test_the_mean_over_layers_is_the_rate(p: float) -> None:
    found = [RATES.of_layer(p, layer) for layer in range(5)]
    assert sum(found) / 5 == pytest.approx(p, abs=1e-12)
    left_out = [1.0 - rate for rate in found]
    assert [x * (1.0 - BY_LAYER[0]) for x in left_out] == pytest.approx(
        [(1.0 - rate) * left_out[0] for rate in BY_LAYER], abs=1e-12
    )


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (SamplingRates(0.5, by_layer=(0.5, 0.6)), "stage.layer_rates: has 2 entries; the model has 5 layers"),
        (
            SamplingRates(0.3, by_layer=(0.1, 0.9, 0.9, 0.9, 0.9)),
            "stage.layer_rates: at p_h = 0.3 the rate of layer 0 would be -1.42; raise p_h (the entries' mean is 0.74)",
        ),
        (
            SamplingRates(p_l=0.4, by_layer=(0.1, 0.9, 0.9, 0.9, 0.9)),
            "stage.layer_rates: at p_l = 0.4, 2 of 5 layers, layer 0 would run with the chance -1.08; raise p_l",
        ),
    ],
)
def test_rates_that_cannot_be_are_refused(rates: SamplingRates, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        sample_sizes(spec_of(gpt2_config()), rates, SamplingOptions())


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("p_l", "all 5 layers", {"protect": ("layers:0",)}),
        ("p_l", "all 5 layers", {"keep_ends": True}),
        ("p_h", "the heads of all 5 layers", {"protect": ("heads:0",)}),
        ("p_m", "the columns of all 5 layers", {"protect": (0,)}),
    ],
)
def test_where_what_has_a_rate_is_protected_nothing_is_sampled(name: str, kind: str, options: dict[str, Any]) -> None:
    rates, spec = SamplingRates(**{name: 0.8}, by_layer=(0.5, *[1.0] * 4)), spec_of(gpt2_config())
    with pytest.raises(ValueError, match=rf"^stage\.layer_rates: {kind} have the rate 1 or are protected, so stage"):
        sample_sizes(spec, rates, SamplingOptions(**options))


def test_a_rate_that_nothing_is_drawn_by_is_not_asked_for() -> None:
    """The heads of the first layer are protected, whose rate would be below 0."""
    rates = SamplingRates(0.5, by_layer=(0.1, 0.9, 0.9, 0.9, 0.9))
    kept = kept_units(spec_of(gpt2_config()), rates, SamplingOptions(protect=("heads:0",)))
    assert [layer.heads for layer in kept] == [5, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("by_layer", "told"),
    [
        ((0.5, 0.5), "at least two differ"),
        ((0.0, 0.5), "are not sampling rates"),
        ((0.5, 1.1), "are not sampling rates"),
    ],
)
def test_entries_that_are_no_rates_or_all_the_same_are_refused(by_layer: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=rf"^layer_rates: .* {told}"):
        SamplingRates(0.5, by_layer=by_layer)


def test_systematic_draws_have_their_chances_exactly() -> None:
    """Every order, and every place where the draw can begin, in steps that the chances are multiples of."""
    chances = torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    starts = (torch.arange(10, dtype=torch.float64) / 10 + 0.05).unsqueeze(1)
    pairs, counts = set(), torch.zeros(4)
    for order in itertools.permutations(range(4)):
        drawn = systematic(torch.tensor(order).expand(10, 4), starts, chances)
        assert torch.equal(drawn.sum(dim=1), torch.full((10,), 2))
        assert drawn.sum(dim=0).tolist() == [1, 3, 7, 9]
        counts += drawn.sum(dim=0)
        pairs |= {tuple(row.nonzero()[:, 0].tolist()) for row in drawn}
    assert pairs == set(itertools.combinations(range(4), 2))


def drawn_at(step: int, rates: SamplingRates = RATES, config: Any = None, **options: Any) -> Subnetwork:
    return IndexGenerator(spec_of(config or gpt2_config()), 3, SamplingOptions(**options)).draw(step, rates)


@pytest.mark.parametrize("protect", [(), ("layers:0",)])
def test_layers_run_as_often_as_their_chances_say(protect: tuple[str, ...]) -> None:
    draws, options = 4000, SamplingOptions(protect=protect)
    chances = layer_chances(spec_of(gpt2_config()), RATES, options)
    assert sum(chances) == pytest.approx(3.0, abs=1e-12)
    if not protect:
        assert chances == pytest.approx(list(BY_LAYER), abs=1e-12)
    ran: Counter[int] = Counter()
    for step in range(draws):
        layers = drawn_at(step, protect=protect).layer_idx
        assert len(layers) == 3
        ran.update(layers)
    for layer, chance in enumerate(chances):
        assert abs(ran[layer] / draws - chance) <= 4 * (chance * (1 - chance) / draws) ** 0.5


def test_a_rate_of_1_is_a_layer_that_is_never_sampled() -> None:
    rates = SamplingRates(0.7, 0.7, 0.6, by_layer=(1.0, 0.6, 0.7, 0.6, 0.6))
    for step in range(20):
        drawn = drawn_at(step, rates)
        assert 0 in drawn.layer_idx and drawn.kept[0] == Kept(5, 5, 23)


@pytest.mark.parametrize("layer_scale", ["none", "inverse"])
@pytest.mark.parametrize(("family", "kv_groups"), [("gpt2", "whole"), ("llama", "within")])
def test_it_computes_what_the_masked_dense_model_does(family: str, kv_groups: str, layer_scale: str) -> None:
    """Each layer's units times its own N/k; its branches divided by its own chance, a half where exact in fp32."""
    rates = SamplingRates(0.6, 0.6, 0.6, by_layer=(1.0, 0.5, 0.5, 0.5, 0.5) if layer_scale == "inverse" else BY_LAYER)
    model, ids = build(config_of(family), dtype=torch.float64), tokens()
    twin, handle = sampled_model(model)
    chances = [1.0, 0.5, 0.5, 0.5, 0.5] if layer_scale == "inverse" else None
    for step in range(3):
        drawn = drawn_at(step, rates, config_of(family), kv_groups=kv_groups, layer_scale=layer_scale)
        handle.activate(drawn)
        assert_same_pass(
            forward_backward(twin, ids), forward_backward(masked_dense(model, drawn, chances=chances), ids)
        )


def test_units_are_drawn_without_bias() -> None:
    """The mean of a module's factors over draws is 1, in each layer by its own N/k."""
    sums, draws = torch.zeros(5, 23), 3000
    for step in range(draws):
        drawn = drawn_at(step, SamplingRates(p_m=0.6, by_layer=BY_LAYER))
        for layer in range(5):
            units = drawn.units("column", layer)
            sums[layer, units] += 23 / len(units)
    error = (23 / 9 - 1) ** 0.5 / draws**0.5
    assert (sums / draws - 1.0).abs().max() < 5 * error


@pytest.mark.parametrize(
    ("options", "cut"),
    [({}, MicroBatchSplit((8,))), ({"redraw": "forward", "ranks": "independent"}, MicroBatchSplit((4, 4), 2))],
)
def test_the_plan_is_what_the_draws_add_up_to(options: dict[str, Any], cut: MicroBatchSplit) -> None:
    spec, chosen = spec_of(llama_config()), SamplingOptions(**options)
    scheduler = three_stage(40, 15, 30, RATES)
    stages = scheduler.stages
    generator, ran = IndexGenerator(spec, 7, chosen), Counter[SampleSizes]()
    for step in range(40):
        for micro_step, count in enumerate(cut.micro_batches):
            for rank in range(cut.world_size):
                drawn = generator.draw(step, scheduler.rates_at(step), micro_step, rank)
                ran[sizes_of(spec, drawn)] += count // cut.world_size
    planned = planned_ledger(spec, scheduler, chosen, 8, 7, 7, {1: cut, 2: cut})
    assert ledger_of(spec, {1: [*ran.items()]}, [7]).used == planned.used
    assert varies(spec, stages[0].rates, chosen) and not varies(spec, stages[1].rates, chosen)
