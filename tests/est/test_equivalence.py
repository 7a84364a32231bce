"""The sampled model computes what the masked and rescaled dense model computes: logits and all gradients."""

from __future__ import annotations

import itertools
from copy import deepcopy

import pytest
import torch
from transformers import PreTrainedModel

from est_cli.est import FULL, EstHandle, IndexGenerator, SamplingOptions, SamplingRates, Subnetwork, apply_est
from est_cli.families import spec_of
from tests.lab.est_models import FAMILIES, build, config_of, tokens
from tests.lab.reference import Pass, active_layers, forward_backward, layers_of, masked_dense, unused_slices

RATES = {
    "heads": SamplingRates(p_h=0.5),
    "columns": SamplingRates(p_m=0.5),
    "layers": SamplingRates(p_l=0.6),
    "all": SamplingRates(0.4, 0.3, 0.5),
}
GRID = [
    (family, kind, {"per_layer": per_layer, "kv_groups": kv_groups, "layer_scale": layer_scale, "keep_ends": keep_ends})
    for family, kind, per_layer, kv_groups, layer_scale, keep_ends in itertools.product(
        FAMILIES, RATES, (True, False), ("whole", "within"), ("none", "inverse"), (True, False)
    )
    if family == "llama" or kv_groups == "whole"
]
TOLERANCE = 1e-9


def sampled_model(model: PreTrainedModel) -> tuple[PreTrainedModel, EstHandle]:
    """A second model with the same weights, on which EST is applied."""
    twin = deepcopy(model)
    return twin, apply_est(twin, spec_of(twin))


def assert_same_pass(sampled: Pass, reference: Pass, tolerance: float = TOLERANCE) -> None:
    close = {"rtol": 0.0, "atol": tolerance}
    torch.testing.assert_close(sampled.logits, reference.logits, **close)
    torch.testing.assert_close(sampled.input_gradient, reference.input_gradient, **close)
    assert sampled.gradients.keys() == reference.gradients.keys()
    for name, gradient in reference.gradients.items():
        assert (sampled.gradients[name] is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(sampled.gradients[name], gradient, **close, msg=lambda m, n=name: f"{n}: {m}")


def assert_unused_untouched(model: PreTrainedModel, subnetwork: Subnetwork, result: Pass) -> None:
    """None for every parameter of a skipped layer, exactly zero for what is left out inside used tensors."""
    skipped = set(range(len(layers_of(model)))) - set(active_layers(model, subnetwork))
    assert len(skipped) == (
        0 if subnetwork.layer_idx is None else model.config.num_hidden_layers - len(subnetwork.layer_idx)
    )
    for name, gradient in result.gradients.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        assert (gradient is None) == (layer in skipped), name
    for name, dim, positions in unused_slices(model, subnetwork):
        gradient = result.gradients[name]
        assert torch.count_nonzero(gradient.index_select(dim, positions)) == 0, name
        assert torch.count_nonzero(gradient) > 0, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "choices"),
    GRID,
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_every_sampling_option_equals_the_masked_dense_model(family: str, kind: str, choices: dict) -> None:
    model, ids = build(config_of(family), dtype=torch.float64), tokens()
    options = SamplingOptions(**choices)
    subnetwork = IndexGenerator(spec_of(model), 3, options).draw(11, RATES[kind])
    twin, handle = sampled_model(model)
    handle.activate(subnetwork)
    result = forward_backward(twin, ids)
    assert_same_pass(result, forward_backward(masked_dense(model, subnetwork, options.layer_scale), ids))
    assert_unused_untouched(model, subnetwork, result)


@pytest.mark.parametrize(("unit_scale", "power"), [("sqrt", 0.5), ("none", 0.0)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_drawn_units_may_be_scaled_by_the_root_or_not_at_all(family: str, unit_scale: str, power: float) -> None:
    model, ids = build(config_of(family), dtype=torch.float64), tokens()
    subnetwork = IndexGenerator(spec_of(model), 3, SamplingOptions(unit_scale=unit_scale)).draw(11, RATES["all"])
    twin, handle = sampled_model(model)
    handle.activate(subnetwork)
    result = forward_backward(twin, ids)
    assert_same_pass(result, forward_backward(masked_dense(model, subnetwork, power=power), ids))
    handle.activate_full()
    assert_same_pass(forward_backward(twin, ids), forward_backward(model, ids))


@pytest.mark.parametrize(("family", "kv_groups"), [("gpt2", "whole"), ("llama", "whole"), ("llama", "within")])
def test_scaled_dot_product_attention_gives_the_same(family: str, kv_groups: str) -> None:
    model, ids = build(config_of(family, attn_implementation="sdpa"), dtype=torch.float64), tokens()
    subnetwork = IndexGenerator(spec_of(model), 5, SamplingOptions(kv_groups=kv_groups)).draw(0, RATES["all"])
    twin, handle = sampled_model(model)
    handle.activate(subnetwork)
    assert_same_pass(forward_backward(twin, ids), forward_backward(masked_dense(model, subnetwork), ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_wrapped_model_follows_a_whole_schedule(family: str) -> None:
    """Stages, kinds of sampling and the full model in any order leave nothing of the one before."""
    model, ids = build(config_of(family), dtype=torch.float64), tokens()
    generator = IndexGenerator(spec_of(model), 7)
    twin, handle = sampled_model(model)
    for step, kind in enumerate(["all", "columns", "heads", None, "layers", "heads", "all", None]):
        subnetwork = FULL if kind is None else generator.draw(step, RATES[kind])
        handle.activate(subnetwork)
        assert_same_pass(forward_backward(twin, ids), forward_backward(masked_dense(model, subnetwork), ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_with_their_own_subnetworks_add_up(family: str) -> None:
    """redraw=forward: the gradient of a step is the sum over its micro-batches, each through its own subnetwork."""
    model = build(config_of(family), dtype=torch.float64)
    generator = IndexGenerator(spec_of(model), 9, SamplingOptions(redraw="forward"))
    twin, handle = sampled_model(model)
    expected = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    reached = set()
    for micro_step in range(3):
        subnetwork = generator.draw(4, RATES["all"], micro_step)
        handle.activate(subnetwork)
        forward_backward(twin, tokens(seed=micro_step), accumulate=micro_step > 0)
        for name, gradient in forward_backward(
            masked_dense(model, subnetwork), tokens(seed=micro_step)
        ).gradients.items():
            if gradient is not None:
                expected[name] += gradient
                reached.add(name)
    for name, parameter in twin.named_parameters():
        assert (parameter.grad is None) == (name not in reached), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=0.0, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_batches_give_the_same(family: str) -> None:
    """The attention mask reaches the heads that are left."""
    model, ids = build(config_of(family)).eval(), tokens()
    attend = torch.ones_like(ids)
    attend[1, :3] = 0
    subnetwork = IndexGenerator(spec_of(model), 1).draw(0, RATES["all"])
    twin, handle = sampled_model(model)
    handle.activate(subnetwork)
    reference = masked_dense(model, subnetwork)(ids, attention_mask=attend).logits
    torch.testing.assert_close(
        twin.eval()(ids, attention_mask=attend).logits[attend == 1], reference[attend == 1], rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(reference[1, 3:], masked_dense(model, subnetwork)(ids).logits[1, 3:], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_over_subnetworks_of_one_module_is_the_full_module(family: str) -> None:
    """1/p with the realised rate: over all draws, the scaled sum is the full sum (biases are not scaled)."""
    model = build(config_of(family), dtype=torch.float64)
    spec, x = spec_of(model), torch.randn(2, 3, model.config.hidden_size, dtype=torch.float64)
    mlp = layers_of(model)[0].mlp
    full = mlp(x).detach()
    handle, generator = apply_est(model, spec), IndexGenerator(spec, 0)
    outputs, counts = [], torch.zeros(spec.mlp_size, dtype=torch.float64)
    for step in range(400):
        subnetwork = generator.draw(step, SamplingRates(p_m=0.5))
        handle.activate(subnetwork)
        outputs.append(mlp(x).detach())
        counts[subnetwork.mlp_idx[0]] += 1
    deviation = torch.stack(outputs).mean(0) - full
    standard_error = torch.stack(outputs).std(0) / 400**0.5
    assert counts.min() > 0
    assert (deviation / standard_error).abs().max() < 5
