"""Our scan against transformers' own and against numerical derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.mamba import modeling_mamba

from est_cli.models import build_model, hf_config
from est_cli.models import selective_scan as module
from est_cli.models.selective_scan import THEIRS, selective_scan, use_selective_scan
from tests.est.test_equivalence import assert_same_pass
from tests.est.test_mamba import build, exact
from tests.lab.commands import accepted
from tests.lab.est_models import tokens
from tests.lab.mamba_reference import config_of
from tests.lab.reference import forward_backward

__all__ = ["exact"]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    use_selective_scan(False)


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """2 sequences, 5 channels, 9 positions, a state of 3."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden_states": (2, 5, 9), "dt": (2, 5, 9), "A": (5, 3), "B": (2, 3, 9), "C": (2, 3, 9), "z": (2, 5, 9)}
    sizes |= {"D": (5,), "delta_bias": (5,)}
    drawn = {name: torch.randn(*size, generator=generator, dtype=dtype) for name, size in sizes.items()}
    return {name: value.requires_grad_() for name, value in (drawn | {"A": -drawn["A"].abs() - 0.1}).items()}


def results(scan: object, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    y = scan(**given, delta_softplus=True)  # type: ignore[operator]
    return y, *torch.autograd.grad((y * y.detach().cos()).sum(), list(given.values()))


def test_value_and_all_gradients_are_those_of_transformers(exact: None) -> None:
    for ours, theirs in zip(results(selective_scan, inputs()), results(THEIRS, inputs()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-12)


def test_value_without_what_may_be_left_out(exact: None) -> None:
    given = {name: value for name, value in inputs().items() if name not in ("D", "z", "delta_bias")}
    given["dt"] = F.softplus(given["dt"]).detach().requires_grad_()
    torch.testing.assert_close(selective_scan(**given), THEIRS(**given), rtol=0.0, atol=1e-12)


def test_gradients_are_derivatives() -> None:
    given = inputs()
    names, values = list(given), list(given.values())
    assert torch.autograd.gradcheck(
        lambda *now: selective_scan(**dict(zip(names, now, strict=True)), delta_softplus=True), values
    )


def test_bf16_is_computed_in_fp32() -> None:
    """What an autocast layer hands over: activations in bf16, parameters in fp32."""
    high = {name: value.detach().bfloat16().float() for name, value in inputs().items()}
    mixed = high | {name: high[name].bfloat16() for name in ("hidden_states", "dt", "B", "C")}
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(**mixed, delta_softplus=True)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, THEIRS(**high, delta_softplus=True))


def test_the_last_state_comes_from_transformers() -> None:
    given = inputs(torch.float32)
    y, state = selective_scan(**given, delta_softplus=True, return_last_state=True)
    assert state.shape == (2, 5, 3)
    torch.testing.assert_close(y, selective_scan(**given, delta_softplus=True))


def test_fake_tensors_cost_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_decay", lambda *_: pytest.fail("a fake tensor was computed with"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = {name: torch.empty(value.shape, requires_grad=True) for name, value in inputs().items()}
        assert selective_scan(**fake).shape == (2, 5, 9)


def test_a_model_trains_the_same_with_either(exact: None) -> None:
    model = build("mamba", torch.float64)
    theirs = forward_backward(deepcopy(model), tokens())
    use_selective_scan(True)
    assert modeling_mamba.mamba_selective_scan is selective_scan
    assert_same_pass(forward_backward(model, tokens()), theirs)


@pytest.mark.parametrize("fused", [True, False])
def test_the_key_decides(fused: bool) -> None:
    config = accepted("model=mamba_tiny").model
    config.fused_scan = fused
    hf_config(config)
    assert modeling_mamba.mamba_selective_scan is (selective_scan if fused else THEIRS)


def test_installed_kernels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object() if name == "mamba_ssm" else None)
    use_selective_scan(True)
    assert modeling_mamba.mamba_selective_scan is THEIRS


def test_a_long_sequence_takes_linear_memory() -> None:
    """What autograd keeps: the states, and nothing else that has channels, positions and state."""
    kept = []
    given = {name: value.detach().requires_grad_() for name, value in inputs(torch.float32).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        selective_scan(**given, delta_softplus=True)
    assert sorted(kept)[-2:] == [2 * 5 * 9, 2 * 5 * 3 * (9 + 1)]


def test_the_preset_is_initialised_as_published() -> None:
    config = accepted("model=mamba_tiny").model
    model = build_model(config, hf_config(config), 0)
    assert 0.019 < float(model.backbone.embeddings.weight.detach().std()) < 0.021
    bound = 1 / (256 * 4) ** 0.5  # kaiming_uniform(sqrt(5)) of 256 channels, over the root of 4 layers
    assert 0.95 * bound < float(model.backbone.layers[0].mixer.out_proj.weight.detach().abs().max()) <= bound
    assert config_of("mamba").initializer_range == 0.1, "else the preset need not say so"
