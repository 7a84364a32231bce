"""Mamba and Mamba2: what runs is what the formulas say, at p = 1 nothing changes, and plain transformers reads it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from est_cli.est import (
    FULL,
    EstHandle,
    IndexGenerator,
    SamplingOptions,
    SamplingRates,
    Subnetwork,
    apply_est,
    forward_flops,
    sample_sizes,
    sampled_parts,
    training_flops,
)
from est_cli.families import spec_of
from est_cli.models import checkpoint_activations
from est_cli.models.lm_loss import LmLoss, target_count
from tests.est.test_equivalence import assert_same_pass
from tests.est.test_identity import HISTORIES, assert_bit_equal, traced
from tests.lab.est_models import tokens
from tests.lab.mamba_reference import FAMILIES, UNITS, config_of, masked_dense, unused_slices
from tests.lab.reference import Pass, forward_backward

RATES = {"heads": SamplingRates(p_h=0.5), "layers": SamplingRates(p_l=0.6), "all": SamplingRates(0.4, 0.5, 0.5)}
OPTIONS = [
    SamplingOptions(per_layer=per_layer, layer_scale=layer_scale, keep_ends=keep_ends)
    for per_layer, layer_scale, keep_ends in itertools.product((True, False), ("none", "inverse"), (True, False))
]
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers computes in float32 whatever it is given, it computes in float64."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def build(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A model in training mode whose parameters are all random."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype).train()


def sampled(
    family: str, kind: str = "all", options: SamplingOptions = OPTIONS[0], dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedModel, EstHandle, Subnetwork]:
    """The untouched model, its copy with an active subnetwork, the handle and the subnetwork."""
    plain = build(family, dtype)
    model = deepcopy(plain)
    handle = apply_est(model, spec_of(model))
    subnetwork = IndexGenerator(handle.spec, 3, options).draw(11, RATES[kind])
    handle.activate(subnetwork)
    return plain, model, handle, subnetwork


@every_family
def test_the_reference_is_the_untouched_model(family: str, exact: None) -> None:
    model = build(family, torch.float64)
    assert_same_pass(forward_backward(model, tokens()), forward_backward(masked_dense(model, FULL), tokens()))


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("kind", RATES)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.per_layer}-{o.layer_scale}-{o.keep_ends}")
def test_every_sampling_option_equals_the_masked_formulas(
    family: str, kind: str, options: SamplingOptions, exact: None
) -> None:
    plain, model, _, subnetwork = sampled(family, kind, options, torch.float64)
    result = forward_backward(model, tokens())
    assert_same_pass(result, forward_backward(masked_dense(plain, subnetwork, options.layer_scale), tokens()))
    assert_unused_untouched(plain, subnetwork, result)


def assert_unused_untouched(model: PreTrainedModel, subnetwork: Subnetwork, result: Pass) -> None:
    """None for every parameter of a skipped layer, zero for what is left out in others, and only there."""
    running = range(5) if subnetwork.layer_idx is None else subnetwork.layer_idx
    for name, gradient in result.gradients.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        assert (gradient is None) == ("layers" in name and layer not in running), name
    for name, dim, positions in (entry for layer in running for entry in unused_slices(model, subnetwork, layer)):
        gradient = result.gradients[name]
        assert gradient.index_select(dim, positions).count_nonzero() == 0, name
        assert gradient.count_nonzero() > gradient.numel() // 4, name


@every_family
def test_one_wrapped_model_follows_a_whole_schedule(family: str, exact: None) -> None:
    plain, model, handle, _ = sampled(family, dtype=torch.float64)
    generator = IndexGenerator(handle.spec, 7)
    for step, kind in enumerate(["heads", None, "all", "layers", "heads", None]):
        subnetwork = FULL if kind is None else generator.draw(step, RATES[kind])
        handle.activate(subnetwork)
        assert_same_pass(forward_backward(model, tokens()), forward_backward(masked_dense(plain, subnetwork), tokens()))


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_at_p_1_the_same_operators_give_the_same_bits(family: str, history: Callable) -> None:
    plain = build(family)
    wrapped = deepcopy(plain)
    history(apply_est(wrapped, spec_of(wrapped)))
    assert_bit_equal(forward_backward(wrapped, tokens()), forward_backward(plain, tokens()))
    assert traced(wrapped, tokens()) == traced(plain, tokens())


@every_family
def test_what_is_sent_of_a_gradient_is_all_that_is_not_zero(family: str) -> None:
    _, model, handle, _ = sampled(family, "heads")
    forward_backward(model, tokens())
    for layer in handle.layers:
        parts = sampled_parts(layer)
        assert sum(part.units is not None for part in parts) == {"mamba": 10, "mamba2": 9}[family]
        for part in parts:
            before, values = part.parameter.grad.clone(), torch.empty(part.numel)
            part.gather(values)
            part.parameter.grad.zero_()
            part.scatter(values)
            assert torch.equal(part.parameter.grad, before)


@every_family
def test_a_checkpoint_of_a_subnetwork_opens_in_untouched_transformers(family: str, tmp_path: Path) -> None:
    plain, model, _, _ = sampled(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert type(loaded) is type(plain)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(forward_backward(loaded, tokens()).logits, forward_backward(plain, tokens()).logits)


@every_family
def test_generation_with_a_cache_after_activate_full(family: str) -> None:
    plain, model, handle, _ = sampled(family)
    handle.activate_full()
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    runs = [twin.eval().generate(tokens(), use_cache=True, **settings) for twin in (plain, model)]
    assert runs[0].shape == (2, 15)
    assert torch.equal(*runs)
    assert torch.equal(runs[0], plain.generate(tokens(), use_cache=False, **settings))


@every_family
def test_activation_checkpointing_changes_nothing(family: str) -> None:
    _, model, handle, subnetwork = sampled(family)
    calls = [0] * 5
    for number, layer in enumerate(handle.layers):
        layer.mixer.register_forward_pre_hook(lambda *_, n=number: calls.__setitem__(n, calls[n] + 1))
    expected = forward_backward(model, tokens())
    checkpoint_activations(model)
    assert_same_pass(forward_backward(model, tokens()), expected, tolerance=0.0)
    assert calls == [3 * (number in subnetwork.layer_idx) for number in range(5)], "computed again in the backward pass"


@every_family
def test_bf16_autocast_is_close_to_the_formulas(family: str) -> None:
    plain, model, _, subnetwork = sampled(family)
    exact = forward_backward(masked_dense(plain.double(), subnetwork), tokens())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = forward_backward(model, tokens())
    assert abs(float(result.loss - exact.loss)) < 0.02 * float(exact.loss)
    for name, gradient in exact.gradients.items():
        if gradient is not None:
            assert result.gradients[name].dtype == torch.float32
            assert float((result.gradients[name] - gradient).norm()) < 0.1 * float(gradient.norm()) + 1e-3, name


@every_family
def test_the_chunked_loss_is_the_plain_one(family: str) -> None:
    _, model, _, _ = sampled(family)
    losses = [LmLoss(kind)(model, tokens(), target_count(tokens())) for kind in ("chunked", "whole")]
    torch.testing.assert_close(*losses)


@every_family
@pytest.mark.parametrize("rates", [SamplingRates(), *RATES.values(), SamplingRates(0.01, 0.01, 0.01)], ids=str)
def test_flops_are_what_pytorch_counts_without_the_scan(
    family: str, rates: SamplingRates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan is replaced by one without products. PyTorch counts a convolution's outputs in the padding too, and the
    gradient of its weight as if it had no groups: so the convolution is compared forward only."""
    monkeypatch.setattr(modeling_mamba, "mamba_selective_scan", lambda x, dt, *_, **__: x * dt)
    monkeypatch.setattr(modeling_mamba2, "mamba2_chunk_scan", lambda x, dt, *_, **__: x * dt.unsqueeze(-1))
    model, (batch, length) = build(family), (3, 7)
    spec = spec_of(model)
    apply_est(model, spec).activate(IndexGenerator(spec, 0).draw(0, rates))
    with FlopCounterMode(display=False) as forward:
        loss = model(tokens(batch, length), use_cache=False).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    (products, convolutions), (gradients, _) = split_counts(forward), split_counts(backward)
    flops = forward_flops(spec, sample_sizes(spec, rates, SamplingOptions()), batch, length)
    assert convolutions > 0 and gradients == 2 * products
    assert flops.total == products + convolutions * length // (length + 3 - 1)
    assert flops.total - flops.blocks == 2 * batch * length * 9 * 31


def split_counts(counter: FlopCounterMode) -> tuple[int, int]:
    """FLOPs of products and of convolutions."""
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(flops for op, flops in counts.items() if "convolution" in str(op))
    return sum(counts.values()) - convolutions, convolutions


@every_family
def test_flops_by_hand(family: str) -> None:
    """Published sizes, all rates 0.5: width 768, 24 layers; Mamba's projections are halved, Mamba2's but B and C."""
    changes = {"hidden_size": 768, "expand": 2, "num_hidden_layers": 24, "conv_kernel": 4, "vocab_size": 50280}
    if family == "mamba":
        config = config_of(family, **changes, state_size=16, time_step_rank=48)
        full = 1536 * (2 * 768 + 4 + (48 + 32) + 48 + 768)
        half = full // 2
    else:
        config = config_of(family, **changes, state_size=128, num_heads=24, head_dim=64)
        per_head, shared = 768 * (64 + 64 + 1) + 4 * 64 + 64 * 768, (768 + 4) * 256
        full, half = 24 * per_head + shared, 12 * per_head + shared
    spec = spec_of(config)
    for rates, weights in ((SamplingRates(), 24 * full), (SamplingRates(0.5, 0.5, 0.5), 12 * half)):
        flops = training_flops(spec, sample_sizes(spec, rates, SamplingOptions()), 2, 1024)
        assert flops.blocks == 6 * 2 * 1024 * weights
        assert flops.total - flops.blocks == 6 * 2 * 1024 * 768 * 50280


@every_family
def test_the_rate_of_mlp_columns_has_no_effect(family: str) -> None:
    generator = IndexGenerator(spec_of(config_of(family)), 0)
    subnetwork = generator.draw(0, SamplingRates(0.5, 0.25, 0.5))
    assert subnetwork.mlp_idx is None
    assert subnetwork.checksum() == generator.draw(0, SamplingRates(0.5, 1.0, 0.5)).checksum()
    assert UNITS[family] == generator.spec.num_heads


def test_b_and_c_in_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="n_groups=3 is not supported"):
        spec_of(config_of("mamba2", n_groups=3))
    spec, options = spec_of(config_of("mamba2")), SamplingOptions(kv_groups="within")
    with pytest.raises(ValueError, match=r"sampling.kv_groups: .* use sampling.kv_groups=whole"):
        sample_sizes(spec, RATES["all"], options)
