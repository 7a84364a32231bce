"""Muon against torch's own on plain parameters: which it trains, how, and what a bad step leaves."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from est_cli.config import AdjustLr, OptimConfig, OptimName, SkippedLayers
from est_cli.est import ModelSpec, Projection, Subnetwork, apply_est
from est_cli.families import spec_of
from est_cli.training.optim import Optimizer, build_optimizer, missing_moments, update
from est_cli.training.optim.muon import matrices_of
from tests.lab.est_models import build, config_of, tokens

LR = 0.02


def muon_config(**changes: Any) -> OptimConfig:
    return OptimConfig(name=OptimName.muon, lr=LR, weight_decay=0.3, **changes)


def wrapped(family: str, optim: OptimConfig) -> tuple[PreTrainedModel, Any, Optimizer]:
    model = build(config_of(family))
    handle = apply_est(model, spec_of(model.config))
    return model, handle, build_optimizer(model, optim, handle)


def names_in(model: nn.Module, groups: list[dict[str, Any]]) -> set[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for group in groups for parameter in group["params"]}


INNER = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "llama": (*tuple(f"self_attn.{n}_proj" for n in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}


@pytest.mark.parametrize("family", INNER)
def test_the_matrices_of_the_layers_are_muons(family: str) -> None:
    model, handle, optimizer = wrapped(family, muon_config())
    assert optimizer.muon is not None
    matrices = names_in(model, optimizer.muon.param_groups)
    assert matrices == {f"{handle.spec.layers}.{n}.{name}.weight" for n in range(5) for name in INNER[family]}
    rest = names_in(model, optimizer.adamw.param_groups)
    assert rest | matrices == {name for name, _ in model.named_parameters()} and not rest & matrices
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3, 0.3]
    assert missing_moments(optimizer) == 4 * sum(
        parameter.numel() * (1 if name in matrices else 2) for name, parameter in model.named_parameters()
    )


def test_convolutions_and_tables_are_no_matrices() -> None:
    """The parameters of a Mamba layer: of its projections alone, by name and not by shape."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_proj, self.conv1d = nn.Linear(4, 16), nn.Conv1d(8, 8, 3, groups=8)
            self.A_log, self.D = nn.Parameter(torch.zeros(8, 2)), nn.Parameter(torch.zeros(8))

    mixer = Mixer()
    mixer.frozen = nn.Linear(3, 3).requires_grad_(False)
    spec = ModelSpec("toy", "layers", 1, 1, 1, 8, 8, 4, 1, 1, (Projection("in_proj", 4, 16, "column", "out"),), ())
    assert matrices_of([mixer], spec) == {mixer.in_proj.weight: False}


def gradients(model: PreTrainedModel, seed: int) -> list[Tensor | None]:
    batch = tokens(seed=seed)
    model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


def is_matrix(name: str) -> bool:
    return name.endswith(tuple(f".{each}.weight" for names in INNER.values() for each in names))


def reference(plain: nn.Module, optim: OptimConfig, turned: bool) -> list[torch.optim.Optimizer]:
    """torch's two optimizers; `turned`: the matrices are given to Muon as (out, in)."""
    muon, decay, rest = [], [], []
    for name, parameter in plain.named_parameters():
        if is_matrix(name):
            if turned:
                parameter.data = parameter.data.T.contiguous()
            muon.append(parameter)
        else:
            (decay if parameter.dim() > 1 else rest).append(parameter)
    groups = [{"params": decay, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8, fused=True)
    more = {
        "momentum": optim.momentum or 0.95,
        "nesterov": optim.nesterov is not False,
        "ns_steps": optim.ns_steps or 5,
    }
    adjust = "match_rms_adamw" if optim.adjust_lr is None else optim.adjust_lr.value
    lr = optim.muon_lr or LR
    return [adamw, torch.optim.Muon(muon, lr=lr, weight_decay=0.3, adjust_lr_fn=adjust, **more)]


SETTINGS: list[dict[str, Any]] = [
    {},
    {"muon_lr": 0.005, "momentum": 0.8, "nesterov": False, "ns_steps": 3},
    {"adjust_lr": AdjustLr.original},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["defaults", "other numbers", "original"])
@pytest.mark.parametrize("max_norm", [0.0, 0.25])
@pytest.mark.parametrize("family", INNER)
def test_it_is_torchs_own(family: str, max_norm: float, settings: dict[str, Any]) -> None:
    """To the last bit where weights are stored (out, in). GPT-2's are not: as their transposes, to rounding in bf16."""
    optim, turned = muon_config(**settings), family == "gpt2"
    model, _, optimizer = wrapped(family, optim)
    plain = deepcopy(model)
    references = reference(plain, optim, turned)
    for step in range(3):
        grads = gradients(model, step)
        norm, _ = update(optimizer, LR, max_norm, torch.tensor(1.0))
        divisor = max(1.0, float(norm) / max_norm) if max_norm else 1.0
        assert max_norm == 0.0 or divisor > 1.5
        for (name, parameter), grad in zip(plain.named_parameters(), grads, strict=True):
            assert grad is not None
            parameter.grad = (grad.T if turned and is_matrix(name) else grad).contiguous() / divisor
        for each in references:
            each.step()
    largest_step = 3 * (optim.muon_lr or LR) * (2.0 if settings.get("adjust_lr") else 1.0)
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if turned and is_matrix(name):
            torch.testing.assert_close(mine, theirs.T, rtol=0.0, atol=0.02 * largest_step)
        elif is_matrix(name) or not max_norm:
            assert torch.equal(mine, theirs), name
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_schedule_is_that_of_both() -> None:
    model, _, optimizer = wrapped("llama", muon_config(muon_lr=0.1))
    gradients(model, 0)
    update(optimizer, LR / 4, 0.0, torch.tensor(1.0))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([LR / 4, LR / 4, 0.025, 0.025])


def everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    states = [value for parameter in model.parameters() for value in optimizer.state.get(parameter, {}).values()]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *states)]


@pytest.mark.parametrize("bad", ["loss", "matrix", "vector"])
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_nothing(bad: str, max_norm: float) -> None:
    model, _, optimizer = wrapped("gpt2", muon_config())
    gradients(model, 0)
    update(optimizer, LR, max_norm, torch.tensor(1.0))
    before = everything(model, optimizer)
    gradients(model, 1)
    for name, parameter in model.named_parameters():
        if bad != "loss" and name.endswith("c_fc.weight" if bad == "matrix" else "c_fc.bias"):
            assert parameter.grad is not None
            parameter.grad.view(-1)[1] = float("nan")
    _, rejected = update(optimizer, LR, max_norm, torch.tensor(float("nan") if bad == "loss" else 1.0))
    after = everything(model, optimizer)
    assert rejected == 1.0 and len(after) == len(before)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    gradients(model, 1)
    update(optimizer, LR, max_norm, torch.tensor(1.0))
    assert not any(torch.equal(old, new) for old, new in zip(before, everything(model, optimizer), strict=True))


def test_rows_that_were_not_sampled_follow_their_momentum_only() -> None:
    """Zero rows of a momentum are zero rows of its orthogonal factor: a unit that never ran only decays."""
    model, handle, optimizer = wrapped("gpt2", muon_config())
    columns = torch.arange(0, 23, 2).expand(5, -1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    handle.activate(Subnetwork(mlp_idx=columns))
    gradients(model, 0)
    update(optimizer, LR, 0.0, torch.tensor(1.0))
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.c_proj.weight"):
            expected = before[name][1::2] * (1 - LR * 0.3)
            torch.testing.assert_close(parameter.detach()[1::2], expected, rtol=0.0, atol=1e-7)
            assert ((parameter.detach() - before[name] * (1 - LR * 0.3))[::2].abs() > 1e-5).any(1).all()


@pytest.mark.parametrize("skipped", SkippedLayers)
def test_layers_that_did_not_run(skipped: SkippedLayers) -> None:
    """With zero gradients a layer goes on along its momentum, at full length: that is what orthogonalising it means."""
    model, handle, optimizer = wrapped("llama", muon_config(skipped_layers=skipped))
    gradients(model, 0)
    update(optimizer, LR, 0.0, torch.tensor(1.0))
    weight = model.get_parameter("model.layers.2.mlp.up_proj.weight")
    before, momentum = weight.detach().clone(), optimizer.state[weight]["momentum_buffer"].clone()
    handle.activate(Subnetwork(layer_idx=(0, 1, 3)))
    gradients(model, 1)
    update(optimizer, LR, 0.0, torch.tensor(1.0))
    found = optimizer.state[weight]["momentum_buffer"]
    if skipped is SkippedLayers.frozen:
        assert torch.equal(weight, before) and torch.equal(found, momentum)
        return
    torch.testing.assert_close(found, 0.95 * momentum)
    moved = weight.detach() - before * (1 - LR * 0.3)
    assert 0.1 * LR < float(moved.square().mean().sqrt()) < 0.3 * LR
