"""Every family against the masked reference, the FLOP counter, plain transformers, and itself at p = 1.

`pytest --collect-only tests/est/test_families.py | tail -1` prints the number of cases.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from est_cli import families as arch
from est_cli.est import (
    FULL,
    EstHandle,
    IndexGenerator,
    ModelSpec,
    Projection,
    SamplingOptions,
    SamplingRates,
    Subnetwork,
    UnitSpan,
    apply_est,
    reached_parts,
    sample_sizes,
    training_flops,
)
from est_cli.families import spec_of
from est_cli.models import checkpoint_activations
from tests.est.test_equivalence import RATES, assert_same_pass
from tests.est.test_flops import BATCH, HALF, LENGTH, choices_of, counted, lm_head_flops
from tests.lab.est_models import ALL_FAMILIES, ALTERNATING, build, config_of, tokens
from tests.lab.reference import Pass, active_layers, forward_backward, layers_of, masked_dense

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "shared draw": {"per_layer": False},
    "layer scale": {"layer_scale": "inverse"},
    "ends": {"keep_ends": True},
    "within": {"kv_groups": "within"},
    "all others": {"per_layer": False, "layer_scale": "inverse", "keep_ends": True, "kv_groups": "within"},
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gemma", {"num_key_value_heads": 9}),
    ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    ("granite", {"num_key_value_heads": 9, "attention_bias": False}),
    ("mistral", {"sliding_window": None}),
    ("opt", {"do_layer_norm_before": False, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("phi", {"qk_layernorm": True, "num_key_value_heads": 9}),
    ("phi3", {"num_key_value_heads": 9, "sliding_window": None}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ALTERNATING}),
    ("olmo2", {"num_key_value_heads": 9, "attention_bias": False}),
    ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
    ("starcoder2", {"use_bias": False}),
]
"""What a config of a family may say otherwise."""

every_family = pytest.mark.parametrize("family", ALL_FAMILIES)


@pytest.fixture(autouse=True)
def _float64_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's norms compute in fp32 whatever the model is in; to compare exactly they compute in float64 here."""
    to_fp32 = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype is torch.float64 else to_fp32(x))


@cache
def plain_model(family: str) -> PreTrainedModel:
    """In float64, shared by all tests; none may change it."""
    return build(config_of(family), dtype=torch.float64)


@cache
def wrapped_model(family: str) -> tuple[PreTrainedModel, EstHandle]:
    """Its twin with EST, shared as well: the subnetwork of the test before is active still."""
    twin = deepcopy(plain_model(family))
    return twin, apply_est(twin, spec_of(twin))


def options_for(family: str, kind: str) -> list[str]:
    """The options that change something where `kind` is sampled."""
    grouped = choices_of(config_of(family)) == ["whole", "within"]
    changes = {
        "shared draw": kind != "layers",
        "layer scale": kind in ("layers", "all"),
        "ends": kind in ("layers", "all"),
    }
    changes["within"] = grouped and kind in ("heads", "all")
    return [name for name in OPTIONS if changes.get(name, True)]


def choice(family: str, name: str) -> SamplingOptions:
    options = OPTIONS[name]
    if options.get("kv_groups") == "within" and choices_of(config_of(family)) == ["whole"]:
        options = {**options, "kv_groups": "whole"}
    return SamplingOptions(**options)


CASES = [(family, kind, name) for family in ALL_FAMILIES for kind in RATES for name in options_for(family, kind)]


def assert_left_out_is_zero(result: Pass, reference: Pass) -> None:
    """Bit for bit: the optimizer's moments see nothing of what does not run. Biases of keys may be 0 by themselves."""
    for name, gradient in reference.gradients.items():
        if gradient is not None and gradient.ndim > 1:
            assert torch.count_nonzero(result.gradients[name][gradient == 0]) == 0, name


def compare(plain: PreTrainedModel, twin: PreTrainedModel, subnetwork: Subnetwork) -> None:
    """`subnetwork` is active in `twin`."""
    scale = "none" if subnetwork.layer_scale == 1.0 else "inverse"
    result, reference = (forward_backward(model, tokens()) for model in (twin, masked_dense(plain, subnetwork, scale)))
    assert_same_pass(result, reference)
    assert_left_out_is_zero(result, reference)


def test_every_family_is_here() -> None:
    """The state-space models have a file of their own."""
    assert {*ALL_FAMILIES, "mamba", "mamba2"} == set(arch.FAMILIES)


@pytest.mark.parametrize(("family", "kind", "option"), CASES)
def test_it_equals_the_masked_dense_model(family: str, kind: str, option: str) -> None:
    twin, handle = wrapped_model(family)
    subnetwork = IndexGenerator(handle.spec, 3, choice(family, option)).draw(11, RATES[kind])
    handle.activate(subnetwork)
    compare(plain_model(family), twin, subnetwork)


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_variants_of_a_family_equal_the_masked_dense_model(family: str, changes: dict[str, Any]) -> None:
    plain = build(config_of(family, **changes), dtype=torch.float64)
    twin = deepcopy(plain)
    handle = apply_est(twin, spec_of(twin))
    subnetwork = IndexGenerator(handle.spec, 5).draw(2, RATES["all"])
    handle.activate(subnetwork)
    compare(plain, twin, subnetwork)


def with_wrong_heads(spec: ModelSpec) -> ModelSpec:
    """As many rows of the projection into the heads, but others: each unit takes one half here and one there."""

    def wrong(projection: Projection) -> Projection:
        if projection.unit == "column" or projection.side == "in":
            return projection
        return replace(projection, layout=tuple(halved(run) for run in runs(projection) for _ in range(2)))

    def runs(projection: Projection) -> tuple[UnitSpan, ...]:
        return projection.weight.runs(spec.full)

    def halved(run: UnitSpan) -> UnitSpan:
        return replace(run, width=run.width // 2)

    return replace(spec, projections=tuple(wrong(projection) for projection in spec.projections))


@every_family
def test_a_wrong_index_is_seen(family: str) -> None:
    """The comparison can fail."""
    plain = plain_model(family)
    twin = deepcopy(plain)
    handle = apply_est(twin, with_wrong_heads(spec_of(plain)))
    subnetwork = IndexGenerator(handle.spec, 3).draw(11, RATES["heads"])
    handle.activate(subnetwork)
    with pytest.raises(AssertionError):
        compare(plain, twin, subnetwork)


@every_family
def test_what_processes_send_of_their_gradients_is_all_of_them(family: str) -> None:
    """Also where each process had a subnetwork of its own."""
    twin, handle = wrapped_model(family)
    generator = IndexGenerator(handle.spec, 3, choice(family, "within"))
    subnetworks = [generator.draw(step, SamplingRates(0.4, 0.3, 0.6)) for step in range(2)]
    for begin in range(2):
        twin.zero_grad(set_to_none=True)
        for subnetwork in subnetworks[begin:]:
            handle.activate(subnetwork)
            forward_backward(twin, tokens(), accumulate=True)
        sent = 0
        for part in reached_parts(handle, subnetworks[begin:]):
            before, values = part.parameter.grad.clone(), part.parameter.new_empty(part.numel)
            part.gather(values)
            part.parameter.grad.zero_()
            part.scatter(values)
            assert torch.equal(part.parameter.grad, before)
            sent += part.numel
        assert sent < sum(parameter.numel() for layer in handle.layers for parameter in layer.parameters())


@every_family
def test_at_p_1_every_bit_is_that_of_the_untouched_model(family: str) -> None:
    """Also behind a subnetwork."""
    plain = build(config_of(family))
    twin = deepcopy(plain)
    handle = apply_est(twin, spec_of(twin))
    expected = forward_backward(plain, tokens())
    for subnetwork in (FULL, IndexGenerator(handle.spec, 0).draw(0, HALF), FULL):
        handle.activate(subnetwork)
        result = forward_backward(twin, tokens())
    assert torch.equal(result.logits, expected.logits)
    assert all(torch.equal(result.gradients[name], gradient) for name, gradient in expected.gradients.items())


@pytest.mark.slow
@every_family
def test_a_saved_model_opens_in_plain_transformers(family: str, tmp_path: Path) -> None:
    """Whatever is active while it is saved."""
    plain, model = build(config_of(family)), active_in(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is type(plain)
    assert torch.equal(loaded.eval()(tokens()).logits, plain.eval()(tokens()).logits)


def active_in(family: str) -> PreTrainedModel:
    """A model with an active subnetwork, in fp32."""
    model = build(config_of(family))
    handle = apply_est(model, spec_of(model))
    handle.activate(IndexGenerator(handle.spec, 2).draw(4, RATES["all"]))
    return model


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("rates", [SamplingRates(), SamplingRates(0.7, 0.3, 0.4)], ids=["full", "sampled"])
def test_training_flops_are_what_pytorch_counts(family: str, rates: SamplingRates) -> None:
    twin, handle = wrapped_model(family)
    for kv_groups in choices_of(twin.config)[: 1 if rates.full else 2]:
        options = SamplingOptions(kv_groups=kv_groups)
        handle.activate(IndexGenerator(handle.spec, 0, options).draw(0, rates))
        products, total = counted(twin)
        flops = training_flops(handle.spec, sample_sizes(handle.spec, rates, options), BATCH, LENGTH)
        assert flops.total == total
        assert flops.blocks == products - lm_head_flops(twin.config)


def parameters_after_a_step(family: str, checkpointing: bool) -> tuple[dict[str, torch.Tensor], list[int]]:
    """After a sampled step with AdamW in fp32, and how often each layer's MLP was computed."""
    model = build(config_of(family))
    handle = apply_est(model, spec_of(model))
    subnetwork = IndexGenerator(handle.spec, 2).draw(4, RATES["all"])
    handle.activate(subnetwork)
    if checkpointing:
        checkpoint_activations(model)
    calls = [0] * len(handle.layers)
    for number in active_layers(model, subnetwork):
        down = handle.spec.projections[-1].path
        count_calls(layers_of(model)[number].get_submodule(down), calls, number)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    forward_backward(model, tokens())
    optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, calls


def count_calls(module: nn.Module, calls: list[int], number: int) -> None:
    module.register_forward_pre_hook(lambda *_: calls.__setitem__(number, calls[number] + 1))


@every_family
def test_a_step_under_activation_checkpointing_is_the_same_step(family: str) -> None:
    expected, once = parameters_after_a_step(family, checkpointing=False)
    found, twice = parameters_after_a_step(family, checkpointing=True)
    assert sum(once) > 0 and twice == [2 * count for count in once]
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=0.0, atol=1e-6, msg=name)


@every_family
def test_a_step_under_bf16_autocast_is_close(family: str) -> None:
    exact = forward_backward(active_in(family), tokens())
    model = active_in(family)
    with torch.autocast("cpu", torch.bfloat16):
        result = forward_backward(model, tokens())
    assert result.logits.dtype == torch.bfloat16
    assert abs(float(result.loss - exact.loss)) < 0.02 * float(exact.loss)
    reached = [name for name, gradient in exact.gradients.items() if gradient is not None]
    error = torch.cat([(result.gradients[name] - exact.gradients[name]).flatten() for name in reached])
    assert error.dtype == torch.float32
    assert error.norm() < 0.1 * torch.cat([exact.gradients[name].flatten() for name in reached]).norm()
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
