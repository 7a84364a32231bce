"""A whole training step on a GPU that is not there, over families, stages and optimizers: nothing in it reads a number
from the device, nothing mixes devices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from est_cli.config import ModelConfig, OptimConfig, OptimName, SkippedLayers, UnsampledRows
from est_cli.est import (
    EstHandle,
    IndexGenerator,
    SamplingRates,
    Subnetwork,
    apply_est,
    reached_parts,
    sampled_parts,
)
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config, unpacked_sequences
from est_cli.models.lm_loss import LmLoss, Objective, target_count
from est_cli.training.optim import build_optimizer, update

MODELS = {
    "gpt2": ModelConfig("gpt2", "gpt2", 50257, 768, 2, 12, max_positions=1024),
    "llama": ModelConfig("llama", "llama", 32000, 2048, 2, 32, 4, 5632, 2048),
}
OPTIMIZERS = {
    "adamw": OptimConfig(),
    "frozen": OptimConfig(unsampled_rows=UnsampledRows.frozen),
    "zero_grad": OptimConfig(skipped_layers=SkippedLayers.zero_grad),
    "muon": OptimConfig(name=OptimName.muon),
}
STAGES = {"1": SamplingRates(0.5, 0.5, 0.5), "2": SamplingRates(0.5, 0.5, 1.0), "3": SamplingRates()}


def step(model_config: ModelConfig, optim: OptimConfig, drawn: Subnetwork) -> tuple[Tensor, Tensor]:
    """Forward of (2, 256) tokens in bf16, gradients as the backward pass leaves them, the update: (loss, norm).

    The backward pass itself is left out: torch's engine asks the driver for its device, and there is none.
    """
    with torch.device("cuda"):
        model = build_model(model_config, hf_config(model_config), 0)
    handle = apply_est(model, spec_of(model.config))
    optimizer, objective = build_optimizer(model, optim, handle), Objective(model, LmLoss(pad_to=128))
    handle.activate(drawn)
    handle.pack()
    tokens = torch.zeros(2, 256, dtype=torch.int64, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        loss = objective(tokens, target_count(tokens))
    _give_gradients(model, handle, drawn)
    handle.unpack()
    parts = reached_parts(handle, [drawn]) if optim.unsampled_rows is UnsampledRows.frozen else ()
    norm, _ = update(optimizer, 1e-3, 1.0, loss, parts)
    return loss, norm


def _give_gradients(model: nn.Module, handle: EstHandle, drawn: Subnetwork) -> None:
    ran = range(len(handle.layers)) if drawn.layer_idx is None else drawn.layer_idx
    inside = {parameter for layer in handle.layers for parameter in layer.parameters()}
    leaves = [parameter for parameter in model.parameters() if parameter not in inside]
    for number in ran:
        leaves += [part.parameter for part in sampled_parts(handle.layers[number])]
    for leaf in leaves:
        leaf.grad = torch.empty_like(leaf)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize("family", MODELS)
def test_a_step_stays_on_the_device(family: str, optim: str, stage: str, fake_gpu: FakeTensorMode) -> None:
    spec = spec_of(hf_config(MODELS[family]))
    drawn = IndexGenerator(spec, 0).draw(3, STAGES[stage])  # on the host, as ever
    with unpacked_sequences(), fake_gpu:
        numbers = step(MODELS[family], OPTIMIZERS[optim], drawn)
    assert all(number.device.type == "cuda" for number in numbers)


def test_a_number_that_is_read_is_noticed(fake_gpu: FakeTensorMode) -> None:
    """The check itself: without it every case above would pass."""
    with fake_gpu:
        with pytest.raises(DataDependentOutputException):
            torch.zeros((), device="cuda").item()
        with pytest.raises(RuntimeError, match="device"):
            torch.zeros(2, device="cuda") + torch.zeros(2)
