"""Each optimizer and each treatment of what was not sampled, on a GPU: as on a CPU, and without waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import pytest
import torch

from est_cli.config import OptimConfig, OptimName, SkippedLayers, UnsampledRows
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, apply_est, reached_parts
from est_cli.families import spec_of
from est_cli.models import build_model, hf_config
from est_cli.models.lm_loss import next_token_loss
from est_cli.training.optim import build_optimizer, update
from tests.gpu.test_cuda import BOTH

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

KINDS = {
    "frozen rows": OptimConfig(eps=1e-3, unsampled_rows=UnsampledRows.frozen),
    "zero layers": OptimConfig(eps=1e-3, unsampled_rows=UnsampledRows.frozen, skipped_layers=SkippedLayers.zero_grad),
    "muon": OptimConfig(name=OptimName.muon, eps=1e-3, skipped_layers=SkippedLayers.zero_grad),
}
STEPS = 4


@contextmanager
def never_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trained(model: Any, optim: OptimConfig, draws: int) -> dict[str, torch.Tensor]:
    """The weights after a few steps, of which the last but one is rejected."""
    handle = apply_est(model, spec_of(model))
    optimizer = build_optimizer(model, optim, handle)
    generator = IndexGenerator(handle.spec, 0, SamplingOptions(redraw="forward"))
    tokens = torch.arange(256).view(2, 128).to(model.device)
    good, bad = torch.tensor([1.0, float("nan")], device=model.device)
    for step in range(STEPS):
        drawn = [generator.draw(step, SamplingRates(0.5, 0.5, 0.5), number) for number in range(draws)]
        for each in drawn:
            handle.activate(each)
            next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        loss = bad if step == STEPS - 2 else good
        with never_waiting():
            parts = reached_parts(handle, drawn) if optim.unsampled_rows is UnsampledRows.frozen else ()
            update(optimizer, 1e-2, 1.0, loss, parts)
        same = [torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
        assert all(same) is (step == STEPS - 2)
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}


@BOTH
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_update_as_on_a_cpu_and_nobody_waits(preset: Any, kind: str, draws: int) -> None:
    cpu = build_model(preset, hf_config(preset), 0)
    gpu = deepcopy(cpu).cuda()
    ours, expected = trained(gpu, KINDS[kind], draws), trained(cpu, KINDS[kind], draws)
    for name, weight in expected.items():
        difference = (ours[name] - weight).abs()
        assert float(difference.mean()) < 2e-4 and float(difference.max()) < 1e-2, name
