"""What FSDP2 gathers, when and among whom, counted for 8 and 64 processes; what comes of it, over gloo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from est_cli.config import LaunchConfig, Precision, WireDtype
from est_cli.distributed import gathered, shard
from est_cli.distributed.device import autocast
from est_cli.models.lm_loss import LmLoss, Objective
from tests.distributed.checks import small_model
from tests.lab.lab import Lab, Plant, losses

CPU = torch.device("cpu")


@pytest.fixture
def processes() -> Iterator[Callable[[int], None]]:
    """processes(n): this one is the first of n, of which the others are not there."""
    yield lambda world: dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    dist.destroy_process_group()


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int]]:
    """Of each reduce-scatter: the type, and the entries of the whole."""
    found = []
    for name in ("reduce_scatter_single", "reduce_scatter_tensor"):  # before torch 2.13
        real = getattr(dist, name, None)
        if real is not None:

            def reduce_scatter(output: Any, input: Any, real: Any = real, **how: Any) -> Any:
                found.append((input.dtype, input.numel()))
                return real(output, input, **how)

            monkeypatch.setattr(dist, name, reduce_scatter)
    return found


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, int, int]]:
    """Of each all-gather: the type, the entries of the whole, and among how many processes."""
    found = []
    for name in ("all_gather_single", "all_gather_into_tensor"):  # before torch 2.13
        real = getattr(dist, name, None)
        if real is not None:

            def gather(output_tensor: Any, input_tensor: Any, real: Any = real, **how: Any) -> Any:
                found.append(
                    (output_tensor.dtype, output_tensor.numel(), output_tensor.numel() // input_tensor.numel())
                )
                return real(output_tensor=output_tensor, input_tensor=input_tensor, **how)

            monkeypatch.setattr(dist, name, gather)
    return found


def sharded(world: int, **launch: Any) -> tuple[Objective, int]:
    """The model, and how many layers it has."""
    model, handle = small_model("llama")
    objective = Objective(model, LmLoss())  # type: ignore[arg-type]
    shard(objective, handle.layers, CPU, world, LaunchConfig(strategy="fsdp", **launch))
    return objective, len(handle.layers)


def run(objective: Objective) -> torch.Tensor:
    with autocast(CPU, Precision.bf16):
        loss: torch.Tensor = objective(torch.zeros(1, 6, dtype=torch.int64), 5)
    return loss


@pytest.mark.parametrize("world", [8, 64])
def test_in_bf16_layers_are_gathered_in_half_the_bytes(
    world: int, processes: Callable[[int], None], gathers: list[tuple[torch.dtype, int, int]]
) -> None:
    processes(world)
    found = []
    for dtype in (None, WireDtype.bf16):
        objective, _ = sharded(world, gather_dtype=dtype)
        gathers.clear()
        run(objective).backward()
        found.append([*gathers])
        assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}
    assert [entries for _, entries, _ in found[1]] == [entries for _, entries, _ in found[0]]
    assert {dtype for dtype, _, _ in found[0]} == {torch.float32}
    outside, *layers = [dtype for dtype, _, _ in found[1]]
    assert outside == torch.float32 and {*layers} == {torch.bfloat16}


@pytest.mark.parametrize("world", [8, 64])
def test_gradients_are_reduced_in_half_the_bytes(
    world: int, processes: Callable[[int], None], reduced: list[tuple[torch.dtype, int]]
) -> None:
    processes(world)
    found = []
    for dtype in (None, WireDtype.bf16):
        objective, layers = sharded(world, reduce_dtype=dtype)
        reduced.clear()
        run(objective).backward()
        assert len(reduced) == 1 + layers, "one for each layer, and one for what lies outside"
        found.append([*reduced])
        assert {parameter.grad.dtype for parameter in objective.parameters()} == {torch.float32}  # type: ignore[union-attr]
    assert {dtype for dtype, _ in found[0]} == {torch.float32} and {dtype for dtype, _ in found[1]} == {torch.bfloat16}
    assert [entries for _, entries in found[0]] == [entries for _, entries in found[1]]


@pytest.mark.parametrize("reshard", [None, True, False])
def test_what_stays_gathered_for_the_backward_pass(
    reshard: bool | None, processes: Callable[[int], None], gathers: list[tuple[torch.dtype, int, int]]
) -> None:
    processes(8)
    objective, layers = sharded(8, reshard_after_forward=reshard)
    run(objective).backward()
    assert len(gathers) == {None: 1 + 2 * layers, True: 2 + 2 * layers, False: 1 + layers}[reshard]
    with gathered(objective), torch.no_grad():
        run(objective)
    assert all(isinstance(parameter, DTensor) for parameter in objective.parameters()), "or it would be read when old"


def test_weights_are_gathered_inside_of_a_group(
    processes: Callable[[int], None], gathers: list[tuple[torch.dtype, int, int]]
) -> None:
    processes(64)
    objective, _ = sharded(64, shard_size=8)
    run(objective).backward()
    assert {among for _, _, among in gathers} == {8}
    norm = next(parameter for parameter in objective.parameters() if parameter.dim() == 2)
    assert isinstance(norm, DTensor) and norm.device_mesh.shape == (8, 8)
    assert len(norm.to_local()) == -(-len(norm) // 8)


def test_only_the_first_process_builds_the_whole_model(lab: Lab) -> None:
    checks: tuple[Plant, ...] = (("tests.distributed.checks.building",),)
    ended = lab.ranks_ended(lab.start_ranks(2, plants=dict.fromkeys(range(2), checks)))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err + ended[1].err


def test_weights_that_the_first_process_has_loaded(shared: Lab, lab: Lab) -> None:
    shared.golden()
    comes_with_it = ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_positions")
    given = (
        *(f"model.{key}=null" for key in comes_with_it),
        "model=hf",
        f"model.name_or_path={shared.at('golden-0') / 'model'}",
        "model.pretrained=true",
    )
    given = (*given, "train.max_steps=3", "stage.t1=0", "stage.t2=0", "train.sample_every=1", "train.sample_tokens=4")
    one, *two = lab.tiny("one", *given), *lab.tiny_ranks(2, "two", *given, "launch.strategy=fsdp")
    assert [ended.code for ended in (one, *two)] == [0, 0, 0], one.err + two[0].err
    assert losses(lab.at("two")) == pytest.approx(losses(lab.at("one")), rel=1e-5)
    samples = [[line for line in ended.err.splitlines() if line.startswith("sample")] for ended in (one, two[0])]
    assert samples[0] == samples[1] and len(samples[0]) == 3


def test_losses_and_gradients_are_those_of_replicas(lab: Lab) -> None:
    checks: tuple[Plant, ...] = (("tests.distributed.checks.sharding",),)
    ended = lab.ranks_ended(lab.start_ranks(4, plants=dict.fromkeys(range(4), checks)))
    assert [rank.code for rank in ended] == [0] * 4, ended[0].err


def test_gradients_in_bf16_are_those_of_replicas(lab: Lab) -> None:
    checks: tuple[Plant, ...] = (("tests.distributed.checks.narrow",),)
    ended = lab.ranks_ended(lab.start_ranks(2, plants=dict.fromkeys(range(2), checks)))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err


def test_muon_on_shares_is_muon_on_matrices(lab: Lab) -> None:
    checks: tuple[Plant, ...] = (("tests.distributed.checks.muon",),)
    ended = lab.ranks_ended(lab.start_ranks(2, plants=dict.fromkeys(range(2), checks)))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
