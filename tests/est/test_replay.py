"""Random sizes: what a run counts is what PyTorch counts and what a plan has foretold, integer for integer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from est_cli.config.micro_batch import pieces
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, SamplingScheduler, apply_est, training_flops
from est_cli.est.baselines import early_dropout, layer_dropout, pld, raptr
from est_cli.est.flops import ledger_of, planned_counts, planned_ledger
from est_cli.est.schedule import constant, cosine, linear, n_stage
from est_cli.est.sizes import MicroBatchSplit, SampleSizes, full_sizes, realised_rates, sample_sizes
from est_cli.est.stacking import g_stack, gradual_stacking, one_layer
from est_cli.est.subnetwork import sizes_of
from est_cli.families import spec_of
from tests.lab.est_models import build, config_of, gpt2_config, tokens

STEPS, BATCH, LENGTH = 40, 8, 7
HALF = SamplingRates(0.5, 0.5, 0.5)
SCHEDULERS: dict[str, Callable[[], SamplingScheduler]] = {
    "n_stage": lambda: n_stage(STEPS, [0.3, 0.6], [HALF, SamplingRates(), SamplingRates(0.7, 0.3)]),
    "linear": lambda: linear(STEPS, 0.8, HALF, 5),
    "cosine": lambda: cosine(STEPS, 0.8, HALF, 5),
    "constant": lambda: constant(STEPS, HALF),
    "raptr": lambda: raptr(STEPS, [0.5], [3]),
    "layer_dropout": lambda: layer_dropout(STEPS, 0.5),
    "pld": lambda: pld(STEPS, 0.3),
    "early_dropout": lambda: early_dropout(STEPS, 0.5, 0.5),
    "gradual_stacking": lambda: gradual_stacking(STEPS, [0.2, 0.5], [1, 3]),
    "g_stack": lambda: g_stack(STEPS, [0.5], [0.4]),
    "one_layer": lambda: one_layer(STEPS, [0.8], [1]),
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_a_draw_costs_is_what_pytorch_counts(family: str) -> None:
    """For every number of layers, none included."""
    model = build(config_of(family))
    spec = spec_of(model)
    handle, generator, scheduler = apply_est(model, spec), IndexGenerator(spec, 0), layer_dropout(100, 0.5)
    head, seen = 3 * 2 * 3 * LENGTH * model.config.hidden_size * model.config.vocab_size, set()
    for step in range(100):
        drawn = generator.draw(step, scheduler.rates_at(step))
        sizes = sizes_of(spec, drawn)
        if sizes.layers in seen:
            continue
        seen.add(sizes.layers)
        handle.activate(drawn)
        ids = tokens(3, LENGTH)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(ids, use_cache=False).logits.flatten(0, 1), ids.flatten()).backward()
        flops = training_flops(spec, sizes, 3, LENGTH)
        products = counter.get_flop_counts()["Global"]
        assert flops.total == counter.get_total_flops()
        assert flops.blocks == flops.total - head - products.get(torch.ops.aten.bmm, 0)
        assert sizes.layers or flops.total == head
    assert seen == set(range(6))


def ran_step_by_step(
    generator: IndexGenerator, scheduler: SamplingScheduler, cut: MicroBatchSplit
) -> list[tuple[SampleSizes, int]]:
    """Every draw of every process and micro-batch by itself."""
    counts: Counter[SampleSizes] = Counter()
    for step in range(STEPS):
        for micro_step, count in enumerate(cut.micro_batches):
            for rank in range(cut.world_size):
                drawn = generator.draw(step, scheduler.rates_at(step), micro_step, rank)
                counts[sizes_of(generator.spec, drawn)] += count // cut.world_size
    return list(counts.items())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_plan_is_what_the_draws_add_up_to(name: str) -> None:
    spec, scheduler = spec_of(config_of("llama")), SCHEDULERS[name]()
    ran = ran_step_by_step(IndexGenerator(spec, 7), scheduler, MicroBatchSplit((BATCH,)))
    found, planned = (
        ledger_of(spec, {1: ran}, [LENGTH]),
        planned_ledger(spec, scheduler, SamplingOptions(), BATCH, LENGTH, 7),
    )
    assert (found.used, found.dense) == (planned.used, planned.dense)
    assert found.dense == training_flops(spec, full_sizes(spec), BATCH, LENGTH) * STEPS
    assert (found.saved_pct("total") > 0.0) == (name != "early_dropout")


CUTS = [
    ({"redraw": "forward"}, MicroBatchSplit(tuple(pieces(BATCH, 3)))),
    ({"redraw": "forward"}, MicroBatchSplit(tuple(pieces(BATCH, 2, 2)), 2)),
    ({"ranks": "independent"}, MicroBatchSplit(tuple(pieces(BATCH, 2, 2)), 2)),
    ({"redraw": "forward", "ranks": "independent", "keep_ends": True}, MicroBatchSplit(tuple(pieces(BATCH, 1, 4)), 4)),
]


@pytest.mark.parametrize(("options", "cut"), CUTS)
@pytest.mark.parametrize("name", ["layer_dropout", "pld"])
def test_however_a_step_is_cut(name: str, options: dict[str, Any], cut: MicroBatchSplit) -> None:
    spec, scheduler, chosen = spec_of(gpt2_config()), SCHEDULERS[name](), SamplingOptions(**options)
    ran = ran_step_by_step(IndexGenerator(spec, 7, chosen), scheduler, cut)
    planned = planned_ledger(spec, scheduler, chosen, BATCH, LENGTH, 7, {1: cut})
    assert ledger_of(spec, {1: ran}, [LENGTH]).used == planned.used
    assert planned.used != planned_ledger(spec, scheduler, SamplingOptions(), BATCH, LENGTH, 7).used


@pytest.mark.parametrize("name", ["layer_dropout", "pld"])
def test_another_seed_is_another_plan_of_the_same_mean(name: str) -> None:
    """The expected share of the blocks is the mean of the layers' probabilities, over layers and steps."""
    spec, scheduler = spec_of(gpt2_config()), SCHEDULERS[name]()
    scheduler = replace(scheduler, stages=(replace(scheduler.stages[0], until_step=20_000),))
    planned = {seed: planned_counts(spec, scheduler, SamplingOptions(), 1, seed)[1] for seed in (0, 1)}
    stage = scheduler.stages[0]
    theta = sum(stage.p_l_at(step) for step in range(20_000)) / 20_000
    expected = 1.0 - (1.0 - theta) * (2.0 / 5) if name == "pld" else 0.5
    for ran in planned.values():
        assert sum(count for _, count in ran) == 20_000
        assert realised_rates(spec, ran).p_l == pytest.approx(expected, abs=4.0 * 0.5 / (5 * 20_000) ** 0.5)
    assert planned[0] != planned[1]


def test_the_largest_subnetwork_is_as_large_as_the_sizes_say() -> None:
    spec = spec_of(config_of("llama"))
    generator = IndexGenerator(spec, 0)
    for make in SCHEDULERS.values():
        for stage in make().stages:
            largest = generator.largest(stage.rates)
            assert sizes_of(spec, largest) == sample_sizes(spec, stage.rates, SamplingOptions())
            assert largest.dropout == 1.0 - stage.rates.p_d


@pytest.mark.parametrize("scheduler", [pld(10**12, 0.3), layer_dropout(10**12 + 7, 0.5)])
def test_a_run_without_end_is_estimated_from_some_of_its_draws(
    scheduler: SamplingScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("est_cli.est.replay._AT_MOST", 1 << 14)
    spec = spec_of(gpt2_config())
    planned = planned_counts(spec, scheduler, SamplingOptions(), BATCH)[1]
    assert sum(count for _, count in planned) == BATCH * scheduler.max_steps
    depth = [1.0 - (1.0 - 0.3) * layer / spec.num_layers for layer in range(spec.num_layers)]
    expected = sum(depth) / spec.num_layers if scheduler.name == "pld" else 0.5
    fade = 0.01 * (1.0 - expected) if scheduler.name == "pld" else 0.0  # the integral of exp(-100 t)
    assert realised_rates(spec, planned).p_l == pytest.approx(expected + fade, abs=0.01)
