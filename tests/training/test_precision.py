"""Precision: what a machine's null stands for is written down, and fp16's loss scale is that of torch's own scaler."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from est_cli.config import OptimConfig
from est_cli.storage.store import step_folders
from est_cli.training.optim import PATIENCE, LossScale, build_optimizer, loss_scale, update
from tests.lab.lab import Lab, losses, outcome, train_records

pytestmark = pytest.mark.slow

FP16 = "train.precision=fp16"


def test_what_was_chosen_stands_in_the_configuration(lab: Lab) -> None:
    assert lab.tiny("x", "train.max_steps=1", "stage.t1=0", "stage.t2=0").code == 0
    assert yaml.safe_load((lab.at("x") / "config.yaml").read_text())["train"]["precision"] == "fp32"
    ended = lab.tiny("y", "train.precision=tf32")
    assert ended.code == 2 and "does not compute in tf32; it does in fp32, bf16, fp16" in ended.err
    assert not lab.at("y").exists()


def test_the_loss_scale_moves_as_torchs_own_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the update of a parameter: which steps change it, its values, and the scale after each step."""
    monkeypatch.setattr(loss_scale, "GROWTH_INTERVAL", 3)
    torch.manual_seed(0)
    start = torch.randn(8)
    gradients = [torch.randn(8) * (float("inf") if step in (0, 1, 5) else 1.0) for step in range(9)]

    theirs = torch.nn.Parameter(start.clone())
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    model = torch.nn.ParameterList([start.clone()])
    (ours,) = model
    optimizer, scale = build_optimizer(model, OptimConfig()), LossScale.at(0.0, 0, torch.device("cpu"))
    for gradient in gradients:
        scaler.scale(torch.ones(()))  # it makes its scale with the first loss
        theirs.grad = gradient * scaler.get_scale()
        scaler.unscale_(reference)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        scaler.step(reference)
        scaler.update()
        ours.grad = gradient * scale.factor
        update(optimizer, 0.1, 1.0, torch.ones(()), scale=scale)
        assert scale.factor.item() == scaler.get_scale()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["chunked", "whole"])
def test_fp16_trains_as_bf16_does(lab: Lab, kind: str) -> None:
    short = ("train.max_steps=12", "stage.t1=4", "stage.t2=8", f"train.lm_loss={kind}")
    for name in ("fp32", "fp16"):
        assert lab.tiny(name, *short, f"train.precision={name}").code == 0
    assert losses(lab.at("fp16")) == pytest.approx(losses(lab.at("fp32")), rel=2e-3)
    norms = [[record["grad_norm"] for record in train_records(lab.at(name))] for name in ("fp16", "fp32")]
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)


def test_a_scale_that_is_too_large_is_searched_down_and_survives_a_resume(lab: Lab) -> None:
    """2**20 times the loss is no number in fp16; the steps that find out change nothing and do not end the run."""
    short = (FP16, "train.max_steps=16", "stage.t1=4", "stage.t2=8")
    high = ("first_loss_scale", 2.0**30)
    ended = lab.tiny("x", *short, plants=[high])
    assert ended.code == 0, ended.err
    assert 3 < ended.err.count("the update was left out") <= PATIENCE
    saved = {
        step: json.loads((path / "state.json").read_text()) for step, path in step_folders(lab.at("x") / "checkpoints")
    }
    assert saved[16]["loss_scale"] < 2.0**28
    stop = ("at_step", "est_cli.training.train.train_step", 13, "before", "SIGTERM")
    assert lab.tiny("y", *short, plants=[high, stop]).code == 143
    assert lab.tiny("y", *short).code == 0
    assert outcome(lab.at("y")) | {"checkpoints": ...} == outcome(lab.at("x")) | {"checkpoints": ...}
