"""What 8 and 64 processes hand over in a step: as many sums, of the same sizes, in the same order, in each of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from est_cli.common.rank import Rank
from est_cli.distributed import DataParallel, StepPlan, data_parallel
from est_cli.est import FULL, IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.training.inputs import plan_step
from tests.lab.est_models import FAMILIES, config_of
from tests.lab.lab import Lab, Plant

MICRO_STEPS = 2
STAGES = {"1": SamplingRates(0.5, 0.5, 0.5), "2": SamplingRates(0.5, 0.5, 1.0), "3": SamplingRates()}


def handed_over(
    family: str,
    rank: Rank,
    options: SamplingOptions,
    rates: SamplingRates,
    monkeypatch: Any,
    wire: torch.dtype | None = None,
) -> list[int]:
    """Entries of each tensor that `rank` has summed in a step, the header last but for what waits for it."""
    sizes: list[int] = []

    def all_reduce(tensor: Tensor, async_op: bool = False) -> Any:
        sizes.append(tensor.numel())
        assert tensor.dtype == (torch.float64 if tensor.numel() == 2 else wire or torch.float32)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(data_parallel.dist, "all_reduce", all_reduce)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
    handle = apply_est(model, spec_of(model.config))
    sync, generator = DataParallel(model, handle.layers, wire), IndexGenerator(handle.spec, 3, options, rank.world_size)
    plan, *_ = plan_step(generator, 5, rates, [rank.world_size] * MICRO_STEPS, rank)
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
    assert sync.reduced_bytes == (4 if wire is None else 2) * (sum(sizes) - 2)
    return sizes


@pytest.mark.parametrize(
    "options",
    [{}, {"redraw": "forward"}, {"ranks": "independent"}, {"ranks": "independent", "cover": "balanced"}],
    ids=str,
)
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


@pytest.mark.parametrize("world", [8, 64])
@pytest.mark.parametrize("stage", STAGES)
def test_small_gradients_share_a_collective(stage: str, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One and the header's; where buckets are small, no more than they must be, and large gradients go alone."""

    def sent() -> list[int]:
        return handed_over("gpt2", Rank(1, world), SamplingOptions(), STAGES[stage], monkeypatch)

    (everything, header) = sent()
    assert header == 2
    monkeypatch.setattr(data_parallel, "SHARED_BELOW", 1_000)
    monkeypatch.setattr(data_parallel, "BUCKET", 3_000)
    *sizes, header = sent()
    assert sum(sizes) == everything and all(1_000 <= size <= 3_000 for size in sizes[:-1])


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


@pytest.mark.parametrize("stage", STAGES)
def test_in_bf16_half_the_bytes_are_sent(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many entries, packed or where they lie (see the types and bytes in handed_over)."""
    plain, narrow = (
        handed_over("llama", Rank(0, 8), SamplingOptions(), STAGES[stage], monkeypatch, wire)
        for wire in (None, torch.bfloat16)
    )
    assert narrow == plain


@pytest.mark.parametrize("limit", [1, 1 << 30], ids=["alone", "together"])
def test_each_process_rounds_its_own_sum_once(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same gradients: the sum of both is formed in bf16, and is fp32 again."""

    def all_reduce(tensor: Tensor, async_op: bool = False) -> Any:
        tensor += tensor.clone()
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(data_parallel.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(data_parallel, "SHARED_BELOW", limit)
    model = torch.nn.Linear(7, 5)
    sync = DataParallel(model, (), torch.bfloat16)
    sync.begin(StepPlan((FULL,), 2, frozenset()))
    for micro_step in range(2):
        sync.before(micro_step)
        model(torch.randn(3, 7)).square().sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    sync.finish(torch.zeros(2, dtype=torch.float64))
    for parameter, own in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert torch.equal(parameter.grad, 2 * own.bfloat16().float()) and not torch.equal(parameter.grad, 2 * own)


def test_what_shares_a_bucket_changes_no_bit(lab: Lab) -> None:
    checks: tuple[Plant, ...] = (("tests.distributed.checks.buckets",),)
    ended = lab.ranks_ended(lab.start_ranks(2, plants=dict.fromkeys((0, 1), checks)))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
