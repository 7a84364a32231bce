"""What wrapping must not disturb: names, saving, copying, checkpointing, autocast, generation."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from est_cli.est import EstHandle, IndexGenerator, SamplingOptions, SamplingRates, Subnetwork, apply_est
from est_cli.families import spec_of
from tests.lab.est_models import FAMILIES, build, config_of, tokens
from tests.lab.reference import active_layers, forward_backward, layers_of, masked_dense

RATES = SamplingRates(0.5, 0.5, 0.6)
every_family = pytest.mark.parametrize("family", FAMILIES)
BOTH_KINDS = [("gpt2", "whole"), ("llama", "whole"), ("llama", "within")]
every_kind = pytest.mark.parametrize(("family", "kv_groups"), BOTH_KINDS)


def sampled(
    family: str, kv_groups: str = "whole", **changes: Any
) -> tuple[PreTrainedModel, PreTrainedModel, EstHandle, Subnetwork]:
    """The untouched model, its copy with an active subnetwork, the handle and the subnetwork."""
    plain = build(config_of(family, **changes))
    model = deepcopy(plain)
    handle = apply_est(model, spec_of(model))
    subnetwork = IndexGenerator(spec_of(model), 2, SamplingOptions(kv_groups=kv_groups)).draw(4, RATES)
    handle.activate(subnetwork)
    return plain, model, handle, subnetwork


def plain_attributes(model: PreTrainedModel) -> dict[str, dict[str, Any]]:
    """Numbers, strings and truth values of each module, by its name."""
    simple = (int, float, str, bool, type(None))
    return {
        name: {key: value for key, value in vars(module).items() if isinstance(value, simple)}
        for name, module in model.named_modules()
    }


@every_family
def test_state_dict_keys_and_tensors_stay(family: str) -> None:
    plain, model, handle, _ = sampled(family)
    for activate in (lambda: None, handle.activate_full):
        activate()
        expected, state = plain.state_dict(), model.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]


@every_family
def test_saving_with_an_active_subnetwork_gives_a_plain_checkpoint(family: str, tmp_path: Path) -> None:
    plain, model, _, _ = sampled(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").train()
    assert type(loaded) is type(plain)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(forward_backward(loaded, tokens()).logits, forward_backward(plain, tokens()).logits)
    plain.save_pretrained(tmp_path / "plain")
    assert (tmp_path / "config.json").read_bytes() == (tmp_path / "plain" / "config.json").read_bytes()


@every_family
def test_a_copy_keeps_its_subnetwork_and_is_independent(family: str) -> None:
    plain, model, handle, _ = sampled(family)
    expected = forward_backward(model, tokens()).logits
    copy = deepcopy(model)
    handle.activate_full()
    assert torch.equal(forward_backward(copy, tokens()).logits, expected)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert torch.equal(forward_backward(model, tokens()).logits, forward_backward(plain, tokens()).logits)


@every_family
def test_a_copied_pair_of_model_and_handle_belongs_together(family: str) -> None:
    plain, model, handle, _ = sampled(family)
    expected = forward_backward(model, tokens()).logits
    copy, copied_handle = deepcopy((model, handle))
    copied_handle.activate_full()
    assert torch.equal(forward_backward(copy, tokens()).logits, forward_backward(plain, tokens()).logits)
    assert torch.equal(forward_backward(model, tokens()).logits, expected)


@every_family
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_activation_checkpointing_changes_nothing(family: str) -> None:
    _, model, _, subnetwork = sampled(family)
    calls = [0] * len(layers_of(model))
    for number, layer in enumerate(layers_of(model)):
        layer.mlp.register_forward_pre_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
    expected = forward_backward(model, tokens())
    once = [int(number in active_layers(model, subnetwork)) for number in range(len(calls))]
    assert calls == once
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    result = forward_backward(model, tokens())
    assert calls == [3 * count for count in once], "the layers must have been computed again in the backward pass"
    assert torch.equal(result.loss, expected.loss)
    for name, gradient in expected.gradients.items():
        assert (result.gradients[name] is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(result.gradients[name], gradient, rtol=0.0, atol=1e-7)


@every_kind
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bf16_autocast_is_close_to_the_masked_model(family: str, kv_groups: str, attention: str) -> None:
    plain, model, _, subnetwork = sampled(family, kv_groups, attn_implementation=attention)
    exact = forward_backward(masked_dense(plain, subnetwork), tokens())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = forward_backward(model, tokens())
    assert result.logits.dtype == torch.bfloat16
    assert abs(float(result.loss - exact.loss)) < 0.02 * float(exact.loss)
    for name, gradient in exact.gradients.items():
        if gradient is not None:
            assert result.gradients[name].dtype == torch.float32
            assert float((result.gradients[name] - gradient).norm()) < 0.1 * float(gradient.norm()) + 1e-3, name


@every_kind
def test_activate_full_restores_every_attribute(family: str, kv_groups: str) -> None:
    plain, model, handle, _ = sampled(family, kv_groups)
    expected = plain_attributes(plain)
    changed = plain_attributes(model)
    handle.activate_full()
    restored = plain_attributes(model)
    assert all(restored[name][key] == value for name, values in expected.items() for key, value in values.items())
    if (family, kv_groups) != ("llama", "whole"):
        assert any(changed[name][key] != value for name, values in expected.items() for key, value in values.items())


@every_kind
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation_after_activate_full_equals_the_untouched_model(family: str, kv_groups: str, attention: str) -> None:
    plain, model, handle, _ = sampled(family, kv_groups, attn_implementation=attention)
    handle.activate_full()
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    generated = [twin.eval().generate(tokens(), **settings) for twin in (plain, model)]
    assert generated[0].shape == (2, 15)
    assert torch.equal(*generated)


@every_family
def test_a_skipped_layer_computes_nothing(family: str) -> None:
    _, model, _, subnetwork = sampled(family)
    ran = []
    for number, layer in enumerate(layers_of(model)):
        for module in layer.modules():
            module.register_forward_pre_hook(lambda *_, n=number: ran.append(n))
    forward_backward(model, tokens())
    assert len(subnetwork.layer_idx) < model.config.num_hidden_layers
    assert set(ran) == set(active_layers(model, subnetwork))


@every_family
def test_a_model_of_another_family_is_refused_and_left_alone(family: str) -> None:
    other = "llama" if family == "gpt2" else "gpt2"
    model = build(config_of(other))
    with pytest.raises(ValueError, match="model"):
        apply_est(model, spec_of(config_of(family)))
    assert all(type(module).__module__.startswith(("torch", "transformers")) for module in model.modules()), (
        "a refused model must stay as it was"
    )


@every_family
def test_wrapping_twice_is_refused_and_leaves_the_subnetwork_active(family: str) -> None:
    _, model, handle, _ = sampled(family)
    expected = forward_backward(model, tokens()).logits
    with pytest.raises(ValueError, match="already"):
        apply_est(model, handle.spec)
    assert torch.equal(forward_backward(model, tokens()).logits, expected)


@every_family
def test_a_model_of_another_size_is_refused_and_left_alone(family: str) -> None:
    model = build(config_of(family, num_hidden_layers=4))
    classes = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="model"):
        apply_est(model, spec_of(config_of(family)))
    assert [type(module) for module in model.modules()] == classes


@every_family
def test_wrapped_leaves_are_still_what_they_were(family: str) -> None:
    """Optimizers that sort parameters by module type, quantisers and `isinstance` checks keep working."""
    plain, model, _, _ = sampled(family)
    for before, after in zip(plain.modules(), model.modules(), strict=True):
        assert isinstance(after, type(before))
        assert isinstance(after, nn.Linear) == isinstance(before, nn.Linear)


@every_family
def test_a_subnetwork_of_another_model_is_refused(family: str) -> None:
    _, _, handle, _ = sampled(family)
    other = spec_of(config_of(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 7}))
    with pytest.raises(ValueError, match="5 layers"):
        handle.activate(IndexGenerator(other, 0).draw(0, RATES))
