"""What always runs complete: what a list of it means, what is drawn beside it, what that computes and what it costs."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from est_cli.est import IndexGenerator, ModelSpec, SamplingOptions, SamplingRates, apply_est, sample_sizes, three_stage
from est_cli.est.coverage import coverage
from est_cli.est.flops import ledger_of, planned_counts, planned_ledger, training_flops
from est_cli.est.kept import varies
from est_cli.est.protected import Protected, is_entry, protected
from est_cli.est.schedule import constant
from est_cli.est.sizes import MicroBatchSplit, SampleSizes, realised_rates
from est_cli.est.spec import Kept
from est_cli.est.subnetwork import Subnetwork, sizes_of
from est_cli.families import spec_of
from tests.est.test_equivalence import assert_same_pass, sampled_model
from tests.lab.est_models import build, config_of, gpt2_config, llama_config, tokens
from tests.lab.reference import forward_backward, masked_dense

HALF = SamplingRates(0.5, 0.5, 0.6)  # 3 of 5 layers
MIXED = ("layers:0", "heads:3-4", "columns:1-2")


def listed(*sets: set[int]) -> Protected:
    return Protected(*map(frozenset, sets))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ((), listed(set(), set(), set())),
        ((0,), listed({0}, {0}, {0})),
        (("first", "last"), listed({0, 4}, {0, 4}, {0, 4})),
        ((0, -1), listed({0, 4}, {0, 4}, {0, 4})),
        (("1-3",), listed({1, 2, 3}, {1, 2, 3}, {1, 2, 3})),
        (("layers:0", "heads:0-1"), listed({0}, {0, 1}, set())),
        (("columns:last", "columns:-2--1", "columns:3"), listed(set(), set(), {3, 4})),
        (("heads:1--2",), listed(set(), {1, 2, 3}, set())),
    ],
)
def test_what_a_list_means_in_five_layers(entries: tuple[int | str, ...], expected: Protected) -> None:
    assert protected(entries, 5) == expected


@pytest.mark.parametrize(
    "entry", [True, 0.5, None, "", "head:1", "first-2", "heads:", "1:2", "0-1-2", "all", [0], 10**6]
)
def test_anything_else_is_refused(entry: Any) -> None:
    assert not is_entry(entry)
    with pytest.raises(ValueError, match=r"^sampling\.protect: .* is not a layer \(0, -1, first, last\)"):
        SamplingOptions(protect=(entry,))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((5,), "sampling.protect: 5: the model has no layer 5; its 5 layers are 0 to 4, or from the last on -1 to -5"),
        (("heads:-6",), "sampling.protect: heads:-6: the model has no layer -6"),
        (("3-1",), "sampling.protect: 3-1: layer 3 comes after layer 1 in a model of 5 layers"),
        (("0-3",), "sampling.protect: p_l = 0.6 of 5 layers keeps only 3, but 4 always run (0, 1, 2, 3); raise stage"),
        (("heads:0-4",), "sampling.protect: the heads of all 5 layers are protected, so stage.p_h = 0.5 samples none"),
        (("columns:0--1",), "sampling.protect: the columns of all 5 layers are protected, so stage.p_m = 0.5"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(entries: tuple[int | str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        sample_sizes(spec_of(gpt2_config()), HALF, SamplingOptions(protect=entries))


def drawn_with(spec: ModelSpec, step: int, rates: SamplingRates = HALF, **options: Any) -> Subnetwork:
    return IndexGenerator(spec, 3, SamplingOptions(**options)).draw(step, rates)


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize(("config", "kv_groups"), [("gpt2", "whole"), ("llama", "whole"), ("llama", "within")])
def test_protected_layers_run_whole_and_the_others_draw_what_they_drew(
    config: str, kv_groups: str, per_layer: bool
) -> None:
    spec = spec_of(config_of(config))
    for step in range(20):
        usual = drawn_with(spec, step, kv_groups=kv_groups, per_layer=per_layer)
        drawn = drawn_with(spec, step, kv_groups=kv_groups, per_layer=per_layer, protect=MIXED)
        assert 0 in drawn.layer_idx and len(drawn.layer_idx) == len(usual.layer_idx) == 3
        for layer in range(5):
            for unit, n, whole in (("head", spec.num_heads, {3, 4}), ("column", spec.mlp_size, {1, 2})):
                own = drawn.units(unit, layer).tolist()
                assert own == (list(range(n)) if layer in whole else usual.units(unit, layer).tolist())
        if kv_groups == "whole":
            groups = {head // spec.group_size for head in drawn.units("head", 1).tolist()}
            assert set(drawn.units("kv_head", 1).tolist()) == groups


def test_other_layers_are_drawn_alike() -> None:
    spec, draws = spec_of(gpt2_config()), 4000
    ran = Counter(layer for step in range(draws) for layer in drawn_with(spec, step, protect=("layers:2",)).layer_idx)
    assert ran[2] == draws
    for layer in (0, 1, 3, 4):
        assert abs(ran[layer] / draws - 0.5) < 4 * (0.25 / draws) ** 0.5


def test_keep_ends_is_a_case_of_it() -> None:
    spec = spec_of(gpt2_config())
    for step in range(50):
        ends = drawn_with(spec, step, keep_ends=True)
        same = drawn_with(spec, step, protect=("layers:first", "layers:last"))
        assert ends.layer_idx == same.layer_idx and same.kept is None
        assert torch.equal(ends.head_idx, same.head_idx) and torch.equal(ends.mlp_idx, same.mlp_idx)
        assert drawn_with(spec, step, keep_ends=True, protect=("layers:0",)).layer_idx == ends.layer_idx


@pytest.mark.parametrize("per_layer", [True, False])
@pytest.mark.parametrize(
    ("family", "kv_groups"), [("gpt2", "whole"), ("llama", "whole"), ("llama", "within"), ("olmo2", "whole")]
)
def test_it_computes_what_the_masked_dense_model_does(family: str, kv_groups: str, per_layer: bool) -> None:
    model, ids = build(config_of(family), dtype=torch.float64), tokens()
    twin, handle = sampled_model(model)
    for step in range(4):
        drawn = drawn_with(spec_of(model), step, kv_groups=kv_groups, per_layer=per_layer, protect=MIXED)
        handle.activate(drawn)
        result = forward_backward(twin, ids)
        assert_same_pass(result, forward_backward(masked_dense(model, drawn), ids))
    handle.activate_full()
    assert_same_pass(forward_backward(twin, ids), forward_backward(model, ids))


def test_packed_it_gives_the_same_gradients() -> None:
    model, ids = build(config_of("llama"), dtype=torch.float64), tokens()
    twin, handle = sampled_model(model)
    drawn = drawn_with(spec_of(model), 0, protect=MIXED)
    handle.activate(drawn)
    handle.pack()
    result = forward_backward(twin, ids)
    handle.unpack()
    wanted = forward_backward(masked_dense(model, drawn), ids)
    torch.testing.assert_close(result.logits, wanted.logits, rtol=0.0, atol=1e-9)
    for name, parameter in twin.named_parameters():
        expected = wanted.gradients[name]
        if expected is not None:
            torch.testing.assert_close(parameter.grad, expected, rtol=0.0, atol=1e-9)


def test_layer_scale_inverse_divides_by_each_layers_own_chance() -> None:
    """Of layers 0, 1, 3 and 4 two of four run, layer 2 always: a factor of 2, and 1."""
    model, ids = build(config_of("gpt2"), dtype=torch.float64), tokens()
    twin, handle = sampled_model(model)
    drawn = drawn_with(spec_of(model), 5, protect=(2,), layer_scale="inverse")
    handle.activate(drawn)
    chances = [0.5, 0.5, 1.0, 0.5, 0.5]
    result, reference = forward_backward(twin, ids), masked_dense(model, drawn, chances=chances)
    assert_same_pass(result, forward_backward(reference, ids))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_flops_of_every_draw_are_what_pytorch_counts(family: str) -> None:
    model = build(config_of(family))
    spec = spec_of(model)
    handle, seen = apply_est(model, spec), set()
    for step in range(40):
        drawn = drawn_with(spec, step, protect=MIXED)
        if sizes_of(spec, drawn) in seen:
            continue
        seen.add(sizes_of(spec, drawn))
        handle.activate(drawn)
        ids = tokens(3, 7)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(ids, use_cache=False).logits.flatten(0, 1), ids.flatten()).backward()
        flops = training_flops(spec, sizes_of(spec, drawn), 3, 7)
        head = 3 * 2 * 3 * 7 * model.config.hidden_size * model.config.vocab_size
        products = counter.get_flop_counts()["Global"]
        assert flops.total == counter.get_total_flops()
        assert flops.blocks == flops.total - head - products.get(torch.ops.aten.bmm, 0)
    assert len(seen) == 3, "two of the layers 1 and 2, of 3 and 4, or one of each, beside the first"


CUTS = [
    ({}, MicroBatchSplit((8,))),
    ({"redraw": "forward"}, MicroBatchSplit((6, 2))),
    ({"redraw": "forward", "ranks": "independent"}, MicroBatchSplit((4, 4), 2)),
]


@pytest.mark.parametrize(("options", "cut"), CUTS)
@pytest.mark.parametrize("protect", [MIXED, (0, -1), ("heads:0-1",)], ids=str)
def test_the_plan_is_what_the_draws_add_up_to(
    protect: tuple[int | str, ...], options: dict[str, Any], cut: MicroBatchSplit
) -> None:
    spec, scheduler = spec_of(llama_config()), three_stage(40, 15, 30, HALF)
    chosen = SamplingOptions(**options, protect=protect)
    generator, ran = IndexGenerator(spec, 7, chosen), Counter[SampleSizes]()
    for step in range(40):
        for micro_step, count in enumerate(cut.micro_batches):
            for rank in range(cut.world_size):
                drawn = generator.draw(step, scheduler.rates_at(step), micro_step, rank)
                ran[sizes_of(spec, drawn)] += count // cut.world_size
    planned = planned_ledger(spec, scheduler, chosen, 8, 7, 7, {1: cut})
    assert ledger_of(spec, {1: [*ran.items()]}, [7]).used == planned.used
    counts = planned_counts(spec, scheduler, chosen, 8, 7, {1: cut})
    assert Counter({sizes: n for stage in counts.values() for sizes, n in stage}) == ran
    assert varies(spec, HALF, chosen) == (protect != (0, -1))


def test_sizes_of_five_layers_by_hand() -> None:
    """Layer 0 whole, of the others 2 run with 3 of 5 heads and 12 of 23 columns."""
    spec, options = spec_of(gpt2_config()), SamplingOptions(protect=(0,))
    sizes = sample_sizes(spec, HALF, options)
    assert sizes == SampleSizes(5, 5, 23, 3, (Kept(5, 5, 23), Kept(3, 3, 12), Kept(3, 3, 12)))
    rates = realised_rates(spec, [(sizes, 4)])
    assert (rates.p_h, rates.p_m, rates.p_l) == (11 / 15, 47 / 69, 3 / 5)
    assert sizes.fits_into(sample_sizes(spec, SamplingRates(0.5, 0.5), options))
    assert not sizes.fits_into(sample_sizes(spec, SamplingRates(0.5, 0.5), SamplingOptions()))


def test_the_largest_draw_has_the_layers_that_keep_the_most() -> None:
    spec, options = spec_of(gpt2_config()), SamplingOptions(protect=("layers:0", "heads:3-4", "columns:3-4"))
    generator = IndexGenerator(spec, 0, options)
    assert generator.largest(HALF).layer_idx == (0, 3, 4)
    assert sizes_of(spec, generator.largest(HALF)) == sample_sizes(spec, HALF, options)
    costs = [training_flops(spec, sizes_of(spec, generator.draw(step, HALF)), 1, 7).total for step in range(50)]
    assert max(costs) == training_flops(spec, sample_sizes(spec, HALF, options), 1, 7).total > min(costs)


def test_coverage_counts_them_where_their_layer_runs() -> None:
    spec, options, steps = spec_of(llama_config()), SamplingOptions(protect=("heads:0", "columns:1")), 60
    covered = coverage(spec, constant(steps, HALF), 5, options)
    generator = IndexGenerator(spec, 5, options)
    heads, columns = torch.zeros(5, spec.num_heads), torch.zeros(5, spec.mlp_size)
    for step in range(steps):
        drawn = generator.draw(step, HALF)
        for layer in drawn.layer_idx:
            heads[layer, drawn.units("head", layer)] += 1
            columns[layer, drawn.units("column", layer)] += 1
    torch.testing.assert_close(covered.heads, (heads / steps).double(), rtol=0.0, atol=1e-7)
    torch.testing.assert_close(covered.columns, (columns / steps).double(), rtol=0.0, atol=1e-7)
    assert torch.equal(covered.heads[0], covered.layers[:1].expand(spec.num_heads))


def test_subnetworks_that_differ_in_it_alone_have_other_checksums() -> None:
    spec = spec_of(gpt2_config())
    sums = {drawn_with(spec, 0, protect=entries).checksum() for entries in ((), (0,), ("heads:0",), ("columns:0",))}
    assert len(sums) == 4
