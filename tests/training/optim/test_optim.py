"""Learning rates by hand, which parameters decay, and an update against torch's own parts."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from est_cli.config import LrSchedule, OptimConfig
from est_cli.est.batch import BatchSchedule, StepBatch
from est_cli.training.optim import build_optimizer, lr_at, update
from tests.lab.est_models import FAMILIES, build, config_of


def rates(steps: int, **settings: Any) -> list[float]:
    optim = OptimConfig(lr=1.0, **settings)
    return [lr_at(step, even(steps), optim) for step in range(steps)]


def even(steps: int) -> BatchSchedule:
    """So many steps of four sequences of eight tokens."""
    return BatchSchedule((steps,), (StepBatch(4, 8),))


HALF = 0.5**0.5 / 2

TABLES: list[tuple[dict[str, Any], list[float]]] = [
    (
        {"schedule": LrSchedule.wsd, "warmup": 2, "decay": 4, "min_lr_ratio": 0.2},
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2],  # up in 2, down in 4 to the floor, which the last step has
    ),
    (
        {"schedule": LrSchedule.wsd, "warmup": 0.2, "decay": 0.4, "min_lr_ratio": 0.2},
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2],  # the same as fractions of the run
    ),
    (
        {"schedule": LrSchedule.wsd, "warmup": 0},
        [1.0] * 8 + [0.55, 0.1],  # defaults: the last fifth, down to a tenth
    ),
    (
        {"schedule": LrSchedule.wsd, "warmup": 1, "decay": 0, "min_lr_ratio": 0.0},
        [1.0] * 10,
    ),
    (
        {"schedule": LrSchedule.wsd, "warmup": 5, "decay": 5, "min_lr_ratio": 0.0},
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0],
    ),
    (
        {"schedule": LrSchedule.linear, "warmup": 5, "min_lr_ratio": 0.5},
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5],
    ),
    (
        {"schedule": LrSchedule.linear, "warmup": 0},
        [0.91, 0.82, 0.73, 0.64, 0.55, 0.46, 0.37, 0.28, 0.19, 0.1],
    ),
    (
        {"schedule": LrSchedule.cosine, "warmup": 2, "min_lr_ratio": 0.0},
        # 0.5 * (1 + cos(k * 22.5 degrees)): the half and the quarters of the arc by hand
        [0.5, 1.0, 0.9619398, 0.5 + HALF, 0.6913417, 0.5, 0.3086583, 0.5 - HALF, 0.0380602, 0.0],
    ),
    (
        {"schedule": LrSchedule.cosine, "warmup": 8, "min_lr_ratio": 0.2},
        [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 0.6, 0.2],
    ),
    (
        {"schedule": LrSchedule.cosine, "warmup": 1.0},
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    ),
    (
        {"schedule": LrSchedule.constant, "warmup": 4},
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    (
        {"schedule": LrSchedule.constant, "warmup": 0},
        [1.0] * 10,
    ),
]


@pytest.mark.parametrize(("settings", "table"), TABLES)
def test_learning_rates_by_hand(settings: dict[str, Any], table: list[float]) -> None:
    assert rates(10, **settings) == pytest.approx(table, abs=1e-7)


def test_a_run_of_one_step() -> None:
    assert rates(1, warmup=0, schedule=LrSchedule.constant) == [1.0]
    assert rates(1, warmup=1) == [1.0]
    assert rates(1, warmup=0, decay=1.0, min_lr_ratio=0.3) == [pytest.approx(0.3)]


def test_the_learning_rate_scales_everything() -> None:
    assert lr_at(8, even(10), OptimConfig(lr=3e-4, warmup=0)) == pytest.approx(3e-4 * 0.55)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_matrices_and_embeddings_decay(family: str) -> None:
    model = build(config_of(family))
    optimizer = build_optimizer(model, OptimConfig(weight_decay=0.3, lr=0.5, beta1=0.8, beta2=0.9, eps=1e-5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
    assert groups.keys() == {0.3, 0.0}
    assert all(name.endswith(".bias") or "norm" in name or ".ln_" in name for name in groups[0.0])
    assert not any(name.endswith(".bias") or "norm" in name or ".ln_" in name for name in groups[0.3])
    assert groups[0.0] | groups[0.3] == set(names.values()) and groups[0.0] and groups[0.3]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)  # tied ones once
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (0.5, (0.8, 0.9), 1e-5, True)


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in build_optimizer(model, OptimConfig()).param_groups] == [1, 0]


def gradients(model: torch.nn.Module, largest: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * largest


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [optimizer.state[p][name] for p in model.parameters() for name in ("exp_avg", "exp_avg_sq", "step")]
    return [tensor.detach().clone() for tensor in (*model.parameters(), *moments)]


@pytest.mark.parametrize("largest", [0.01, 100.0], ids=["not clipped", "clipped"])
@pytest.mark.parametrize("max_norm", [1.0, 0.0])
def test_update_is_torchs_clipping_and_its_unfused_adamw(largest: float, max_norm: float) -> None:
    ours = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Linear(5, 3))
    theirs = deepcopy(ours)
    optimizer = build_optimizer(ours, OptimConfig())
    reference = torch.optim.AdamW(
        [{"params": [p for p in theirs.parameters() if p.dim() == 2], "weight_decay": 0.1},
         {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0}],
        lr=0.25, betas=(0.9, 0.95), foreach=False, fused=False,
    )  # fmt: skip
    for _ in range(3):
        for model in (ours, theirs):
            gradients(model, largest)
        norm, rejected = update(optimizer, 0.25, max_norm, torch.tensor(1.0))
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm or float("inf"))
        reference.step()
        assert norm == expected and rejected == 0.0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is None
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_update_rejects_what_is_not_finite(bad: str) -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = build_optimizer(model, OptimConfig())
    gradients(model, 1.0)
    update(optimizer, 0.1, 1.0, torch.tensor(1.0))
    before = state_of(model, optimizer)
    gradients(model, 1.0)
    if bad == "gradient":
        assert model.bias.grad is not None
        model.bias.grad[1] = float("inf")
    _, rejected = update(optimizer, 0.1, 1.0, torch.tensor(float("nan") if bad == "loss" else 1.0))
    assert rejected == 1.0
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(model, optimizer), strict=True))
    gradients(model, 1.0)
    update(optimizer, 0.1, 1.0, torch.tensor(1.0))
    assert not torch.equal(before[0], model.weight)
