"""What 8 and 64 processes hand over in a step: as many sums, of the same sizes, in the same order, in each of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from est_cli.common.rank import Rank
from est_cli.distributed import DataParallel, data_parallel
from est_cli.est import IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.training.step import plan_step
from tests.lab.est_models import FAMILIES, config_of

MICRO_STEPS = 2
STAGES = {"1": SamplingRates(0.5, 0.5, 0.5), "2": SamplingRates(0.5, 0.5, 1.0), "3": SamplingRates()}


def handed_over(family: str, rank: Rank, options: SamplingOptions, rates: SamplingRates, monkeypatch: Any) -> list[int]:
    """Entries of each tensor that `rank` has summed in a step, the header last but for what waits for it."""
    sizes: list[int] = []

    def all_reduce(tensor: Tensor, async_op: bool = False) -> Any:
        sizes.append(tensor.numel())
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(data_parallel.dist, "all_reduce", all_reduce)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
    handle = apply_est(model, spec_of(model.config))
    sync, generator = DataParallel(model, handle.layers), IndexGenerator(handle.spec, 3, options)
    plan, _, _ = plan_step(generator, 5, rates, [rank.world_size] * MICRO_STEPS, rank)
    sync.begin(plan)
    handle.activate(plan.at(0))
    if plan.shared:
        handle.pack()
    for micro_step in range(MICRO_STEPS):
        handle.activate(plan.at(micro_step))
        sync.before(micro_step)
        tokens = torch.randint(0, handle.spec.vocab_size, (1, 6))
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    sync.finish(torch.zeros(2, dtype=torch.float64))
    handle.unpack()
    assert sync.reduced_bytes == 4 * (sum(sizes) - 2)
    return sizes


@pytest.mark.parametrize("options", [{}, {"redraw": "forward"}, {"ranks": "independent"}], ids=str)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_ranks_hand_over_the_same(
    family: str, stage: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        handed_over(family, Rank(number, world), SamplingOptions(**options), STAGES[stage], monkeypatch)  # type: ignore[arg-type]
        for world in (8, 64)
        for number in (0, 1, world - 1)
    ]
    for of_world in (found[:3], found[3:]):
        assert of_world[0] == of_world[1] == of_world[2]
    if not options:
        assert found[0] == found[3], "one subnetwork, however many there are"


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_are_sent_as_they_are(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer entries the smaller the stage, and as many as the subnetwork has."""
    sums = {
        stage: sum(handed_over(family, Rank(0, 8), SamplingOptions(), rates, monkeypatch))
        for stage, rates in STAGES.items()
    }
    assert sums["1"] < sums["2"] < sums["3"]
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config_of(family)).parameters())
    assert sums["3"] == parameters + 2
