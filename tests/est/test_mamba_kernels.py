"""The CUDA kernels take the parameters themselves, past the modules' forwards: they must be given the sampled ones.

No kernel runs here. Functions that compute the same stand in for those of mamba_ssm, called as transformers calls them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from est_cli.est import SamplingOptions
from tests.est.test_equivalence import assert_same_pass
from tests.est.test_mamba import exact, sampled
from tests.lab.est_models import tokens
from tests.lab.mamba_reference import FAMILIES
from tests.lab.reference import forward_backward

__all__ = ["exact"]


def mamba_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_weight: Tensor,
    dt_weight: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    a: Tensor,
    into: None,
    out_of: None,
    d: Tensor,
    **others: Any,
) -> Tensor:
    x, gate = xz.chunk(2, dim=1)
    x = modeling_mamba.causal_conv1d_fn(x, conv_weight.squeeze(1), conv_bias, activation="silu")
    rank, state = dt_weight.shape[1], a.shape[1]
    step, into, out_of = (x.transpose(1, 2) @ x_weight.t()).transpose(1, 2).split([rank, state, state], dim=1)
    y = modeling_mamba.mamba_selective_scan(x, dt_weight @ step, a, into, out_of, D=d, z=gate, **others)
    return F.linear(y.transpose(1, 2), out_weight, out_bias)


def mamba2_split_scan(
    fused: Tensor, conv_weight: Tensor, conv_bias: Tensor, dt_bias: Tensor, a: Tensor, **others: Any
) -> Tensor:
    heads, inner = len(a), len(others["rmsnorm_weight"])
    state = (len(conv_weight) - inner) // 2
    gate, convolved, dt = fused.split([inner, len(conv_weight), heads], dim=-1)
    convolved = modeling_mamba2.causal_conv1d_fn(convolved.mT, conv_weight, conv_bias, activation="silu").mT
    x, into, out_of = convolved.split([inner, state, state], dim=-1)
    x = x.unflatten(-1, (heads, others["headdim"]))
    settings = {"chunk_size": others["chunk_size"], "D": others["D"], "dt_limit": others["dt_limit"]}
    y = modeling_mamba2.mamba2_chunk_scan(
        x, dt, a, into.unsqueeze(2), out_of.unsqueeze(2), dt_bias=dt_bias, dt_softplus=True, **settings
    ).flatten(2)
    y = F.rms_norm(y * F.silu(gate), (inner,), others["rmsnorm_weight"], others["rmsnorm_eps"])
    return F.linear(y, others["outproj_weight"], others["outproj_bias"])


KERNELS = {
    "mamba": (modeling_mamba, "mamba_inner_fn", mamba_inner),
    "mamba2": (modeling_mamba2, "mamba2_split_conv1d_scan_combined", mamba2_split_scan),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["heads", "all"])
def test_kernels_are_given_what_is_sampled(
    family: str, kind: str, exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, _, subnetwork = sampled(family, kind, SamplingOptions(layer_scale="inverse"), torch.float64)
    expected = forward_backward(model, tokens())
    module, name, kernel = KERNELS[family]
    calls = []
    monkeypatch.setattr(module, name, lambda *args, **kwargs: calls.append(1) or kernel(*args, **kwargs))
    assert_same_pass(forward_backward(model, tokens()), expected)
    assert len(calls) == len(subnetwork.layer_idx or range(5))
