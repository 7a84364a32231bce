"""The methods that EST is compared with: their schedules by hand, their draws by count, their dropout bit by bit.

The statistical checks are on fixed seeds, with thresholds that a fair generator misses less than once in some thousands
of seeds.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from est_cli.est import FULL, IndexGenerator, SamplingOptions, SamplingScheduler, Subnetwork, apply_est
from est_cli.est.baselines import early_dropout, layer_dropout, pld, raptr
from est_cli.est.sizes import sample_sizes
from est_cli.est.subnetwork import sizes_of
from est_cli.families import spec_of
from tests.lab.est_models import build, config_of, gpt2_config, llama_config, tokens

SPEC = spec_of(gpt2_config(n_layer=6))
STEPS = 1200


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    return model.transformer.h if model.config.model_type == "gpt2" else model.model.layers


def output_projections(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    return (
        (layer.attn.c_proj, layer.mlp.c_proj)
        if hasattr(layer, "attn")
        else (layer.self_attn.o_proj, layer.mlp.down_proj)
    )


def layers_run(drawn: Subnetwork, count: int = 6) -> list[int]:
    return list(range(count)) if drawn.layer_idx is None else list(drawn.layer_idx)


def frequencies(scheduler: SamplingScheduler, **options: Any) -> list[float]:
    """How often each of 6 layers runs."""
    generator = IndexGenerator(SPEC, 3, SamplingOptions(**options))
    ran = torch.zeros(6)
    for step in range(scheduler.max_steps):
        ran[layers_run(generator.draw(step, scheduler.rates_at(step)))] += 1
    return (ran / scheduler.max_steps).tolist()


def assert_frequencies(found: list[float], expected: list[float]) -> None:
    for share, p in zip(found, expected, strict=True):
        assert abs(share - p) <= 4.0 * math.sqrt(p * (1.0 - p) / STEPS), (found, expected)


def test_layer_dropout_keeps_each_layer_with_its_probability() -> None:
    assert_frequencies(frequencies(layer_dropout(STEPS, 0.7)), [0.7] * 6)
    assert_frequencies(frequencies(layer_dropout(STEPS, 0.7), keep_ends=True), [1.0, 0.7, 0.7, 0.7, 0.7, 1.0])


def test_layers_are_drawn_apart_and_steps_too() -> None:
    """The number of 4 layers that run is binomial, and a step says nothing of the next."""
    spec, p = spec_of(gpt2_config(n_layer=4)), 0.6
    generator, rates = IndexGenerator(spec, 1), layer_dropout(STEPS, p).rates_at(0)
    runs = [layers_run(generator.draw(step, rates), 4) for step in range(STEPS)]
    for k in range(5):
        expected = math.comb(4, k) * p**k * (1.0 - p) ** (4 - k)
        share = sum(len(run) == k for run in runs) / STEPS
        assert abs(share - expected) <= 4.0 * math.sqrt(expected * (1.0 - expected) / STEPS), k
    same, expected = sum(one == other for one, other in pairwise(runs)) / STEPS, (p * p + (1.0 - p) ** 2) ** 4
    assert abs(same - expected) <= 4.0 * math.sqrt(expected * (1.0 - expected) / STEPS)
    assert [] in runs, "at this rate it happens that no layer runs"


def test_progressive_layer_dropping_by_its_formula() -> None:
    """theta_t = (1 - theta) exp(-gamma t) + theta with gamma = 100 / T; layer i of L: 1 - i / L (1 - theta_t)."""
    scheduler = pld(STEPS, 0.5)
    for step in (0, 1, 17, STEPS - 1):
        theta = (1.0 - 0.5) * math.exp(-100.0 / STEPS * step) + 0.5
        rates = scheduler.rates_at(step)
        assert rates.p_l == pytest.approx(theta, rel=1e-12)
        drawn = IndexGenerator(SPEC, 0).draw(step, rates)
        if step == 0:
            assert drawn is FULL
        else:
            scales = [1.0 / (1.0 - layer / 6 * (1.0 - theta)) for layer in range(6)]
            assert drawn.layer_scales.tolist() == pytest.approx(scales, rel=1e-6)
    assert scheduler.transitions() == [] and pld(STEPS, 0.5, gamma=0.25).rates_at(4).p_l == 0.5 + 0.5 * math.exp(-1.0)


def test_progressive_layer_dropping_tells_its_limit_not_its_mean() -> None:
    """The mean rate of the layers goes to 1 - (1 - theta) (L - 1) / 2L, not to theta."""
    assert pld(STEPS, 0.5).stages[0].describe() == "with layer i of L at p_l=1-(1-theta)*i/L, theta from 1 to 0.5"


@pytest.mark.slow
def test_progressive_layer_dropping_keeps_each_layer_with_its_probability() -> None:
    scheduler = pld(STEPS, 0.5, gamma=1.0)  # at its limit almost at once
    assert_frequencies(frequencies(scheduler), [1.0, 11 / 12, 10 / 12, 9 / 12, 8 / 12, 7 / 12])
    assert_frequencies(frequencies(scheduler, keep_ends=True), [1.0, 11 / 12, 10 / 12, 9 / 12, 8 / 12, 1.0])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_each_layer_is_scaled_by_its_own_factor(family: str) -> None:
    """Against the plain model whose output projections are scaled by hand, bias included."""
    model, plain = build(config_of(family)), build(config_of(family))
    spec = spec_of(model)
    drawn = next(
        drawn
        for step in range(1, 100)
        if len(layers_run(drawn := IndexGenerator(spec, 0).draw(step, pld(50, 0.4).rates_at(step)), 5)) == 4
    )
    apply_est(model, spec).activate(drawn)
    for number, layer in enumerate(layers_of(plain)):
        for projection in output_projections(layer):
            projection.register_forward_hook(
                lambda module, args, out, factor=drawn.layer_scales[number] if number in drawn.layer_idx else 0.0: (
                    out * factor
                )
            )
    ids = tokens()
    torch.testing.assert_close(model(ids, use_cache=False).logits, plain(ids, use_cache=False).logits)


def test_layer_dropout_is_scaled_only_where_it_is_asked_for() -> None:
    rates = layer_dropout(10, 0.5).rates_at(0)
    assert IndexGenerator(SPEC, 0).draw(3, rates).layer_scales is None
    inverse = SamplingOptions(layer_scale="inverse", keep_ends=True)
    assert IndexGenerator(SPEC, 0, inverse).draw(3, rates).layer_scales.tolist() == [1.0, 2.0, 2.0, 2.0, 2.0, 1.0]


def test_paths_have_their_length_and_both_ends() -> None:
    scheduler = raptr(100, [0.25, 0.5, 75], [3, 2 / 3, 5])
    generator, seen = IndexGenerator(SPEC, 0), set()
    for step in range(100):
        run = layers_run(generator.draw(step, scheduler.rates_at(step)))
        assert len(run) == (3, 4, 5, 6)[step // 25] and run[0] == 0 and run[-1] == 5
        seen |= {tuple(run)} if step < 25 else set()
    assert seen == {(0, layer, 5) for layer in (1, 2, 3, 4)}
    assert scheduler.milestones() == [25, 50, 75]


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        ([1], r"^stage\.depths: a path of 1 of 6 layers is too short"),
        ([7], r"^stage\.depths: 7 layers are more than the model's 6"),
        ([0.1], r"^stage\.depths: a path of 1 of 6"),
        ([0], r"^stage\.depths: 0 is neither"),
        ([1.5], r"^stage\.depths: 1\.5 is neither"),
        ([True], r"^stage\.depths: True is neither"),
        ([0.5, 0.5], r"^stage\.depths: has 2 entries, stage\.boundaries 1"),
    ],
)
def test_depths_that_do_not_do(depths: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_sizes(SPEC, raptr(10, [5], depths).rates_at(0), SamplingOptions())


def test_dropout_ends_at_its_boundary() -> None:
    scheduler, generator = early_dropout(10, 0.4, 0.75), IndexGenerator(SPEC, 0)
    drawn = [generator.draw(step, scheduler.rates_at(step)) for step in range(10)]
    assert [subnetwork.dropout for subnetwork in drawn] == [0.25] * 4 + [0.0] * 6 and drawn[4] is FULL
    assert all(sizes_of(SPEC, subnetwork) == sizes_of(SPEC, FULL) for subnetwork in drawn)


def test_branch_dropout_is_gpt2s_own_residual_dropout() -> None:
    """Bit by bit, with the same random numbers; and none in evaluation."""
    model, plain = build(gpt2_config()), build(gpt2_config(resid_pdrop=0.4))
    ids = tokens()
    handle = apply_est(model, spec_of(model))
    handle.activate(IndexGenerator(handle.spec, 0).draw(0, early_dropout(2, 1, 0.6).rates_at(0)))
    for modes in (model.train, plain.train), (model.eval, plain.eval):
        logits = []
        for mode, net in zip(modes, (model, plain), strict=True):
            mode()
            torch.manual_seed(5)
            logits.append(net(ids, use_cache=False).logits)
        assert torch.equal(*logits)
    handle.activate_full()
    assert torch.equal(model.train()(ids, use_cache=False).logits, plain(ids, use_cache=False).logits)


def test_branch_dropout_works_where_a_family_has_none() -> None:
    """Llama has no dropout: half of the entries are gone and the others doubled, on average the same."""
    model = build(llama_config())
    handle = apply_est(model, spec_of(model))
    outputs = []
    layers_of(model)[2].self_attn.o_proj.register_forward_hook(lambda module, args, out: outputs.append(out))
    handle.activate(Subnetwork(dropout=0.5))
    for seed in range(20):
        torch.manual_seed(seed)
        model(tokens(4, 20))
    dropped = torch.stack(outputs) == 0.0
    assert 0.48 < dropped.float().mean() < 0.52
    assert dropped.any(0).all() and not dropped.all(0).any()
