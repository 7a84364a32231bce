"""What several processes check together: each function is a plant (see tests/lab/server.py) that ends its process."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, LlamaConfig

from est_cli.common.errors import PeerLostError
from est_cli.common.rank import Rank, rank_of_environment
from est_cli.config import LaunchConfig, OptimConfig, OptimName, Precision, WireDtype
from est_cli.distributed import (
    DataParallel,
    FullySharded,
    GradientSync,
    Group,
    NoSync,
    data_parallel,
    shard,
    weight_checksum,
    wire_dtype,
)
from est_cli.distributed.device import autocast
from est_cli.est import EstHandle, IndexGenerator, SamplingOptions, SamplingRates, apply_est
from est_cli.families import spec_of
from est_cli.models import empty_model
from est_cli.models.lm_loss import LmLoss, Objective
from est_cli.storage.tensors import model_tensors, optimizer_tensors, own_share
from est_cli.training.inputs import plan_step
from est_cli.training.optim import build_optimizer
from est_cli.training.optim.muon import step_muon
from tests.lab.est_models import config_of


def together(check: Callable[[Rank], None]) -> Callable[[], None]:
    """A plant that meets the other processes over gloo and ends with code 0 where `check` holds."""

    @wraps(check)
    def planted() -> None:
        torch.set_num_threads(1)
        try:
            dist.init_process_group("gloo")
            check(rank_of_environment())
            dist.destroy_process_group()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)
        os._exit(0)

    return planted


def small_model(family: str) -> tuple[nn.Module, EstHandle]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
    return model, apply_est(model, spec_of(model.config))


def gradients(model: nn.Module, handle: EstHandle, sync: GradientSync, rank: Rank) -> dict[str, torch.Tensor]:
    """Of a step of stage 1 in two micro-batches, which differ between the processes."""
    generator = IndexGenerator(handle.spec, 3, SamplingOptions())
    plan, *_ = plan_step(generator, 5, SamplingRates(0.5, 0.5, 0.5), [rank.world_size] * 2, rank)
    sync.begin(plan)
    handle.activate(plan.at(0))
    handle.pack()
    torch.manual_seed(rank.rank)
    for micro_step in range(2):
        sync.before(micro_step)
        tokens = torch.randint(0, handle.spec.vocab_size, (1, 6))
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    sync.finish(torch.zeros(2, dtype=torch.float64))
    handle.unpack()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@together
def buckets(rank: Rank) -> None:
    """Bit for bit what an all_reduce of each gradient by itself gives, whatever shares a bucket."""
    found = []
    for data_parallel.SHARED_BELOW, data_parallel.BUCKET in ((1, 1), (100, 300), (1 << 30, 1 << 30)):
        model, handle = small_model("llama")
        found.append(gradients(model, handle, DataParallel(model, handle.layers), rank))
    own = gradients(*small_model("llama"), NoSync(), rank)
    for name, alone in found[0].items():
        assert torch.equal(found[1][name], alone) and torch.equal(found[2][name], alone)
        dist.all_reduce(own[name])
        torch.testing.assert_close(own[name], alone)


def passes(
    launch: LaunchConfig, rank: Rank, precision: Precision, dtype: torch.dtype
) -> tuple[float, dict[str, torch.Tensor]]:
    """(loss, gradients) of a step of stage 1 in two micro-batches, which differ between the processes."""
    model, handle = small_model("llama")
    model.to(dtype)
    reduce = wire_dtype(launch.reduce_dtype)
    objective, sync = Objective(model, LmLoss()), DataParallel(model, handle.layers, reduce)  # type: ignore[arg-type]
    if launch.strategy == "fsdp":
        model, handle = small_model("llama")
        objective = Objective(model.to(dtype), LmLoss())  # type: ignore[arg-type]
        shard(objective, handle.layers, torch.device("cpu"), rank.world_size, launch)
        sync = FullySharded(objective, handle.layers)
    plan, *_ = plan_step(
        IndexGenerator(handle.spec, 3, SamplingOptions()), 5, SamplingRates(0.5, 0.5, 0.5), [rank.world_size] * 2, rank
    )
    sync.begin(plan)
    torch.manual_seed(rank.rank)
    loss = torch.zeros(1, dtype=torch.float64)
    for micro_step in range(2):
        handle.activate(plan.at(micro_step))
        sync.before(micro_step)
        tokens = torch.randint(0, handle.spec.vocab_size, (1, 6))
        with autocast(torch.device("cpu"), precision):
            part = objective(tokens, 10 * rank.world_size)
        part.backward()
        loss += part.detach()
    sync.finish(loss)
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.item(), {
        name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()
    }


@together
def sharding(rank: Rank) -> None:
    """Whatever is gathered when, and shared by how many, losses and gradients are those of replicas."""
    loss, expected = passes(LaunchConfig(), rank, Precision.fp32, torch.float64)
    for size, reshard in ((None, None), (2, None), (2, False), (None, True), (4, False)):
        launch = LaunchConfig(strategy="fsdp", shard_size=size, reshard_after_forward=reshard)
        found, grads = passes(launch, rank, Precision.fp32, torch.float64)
        torch.testing.assert_close(found, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(grads, expected, rtol=1e-9, atol=1e-12)
    loss, expected = passes(LaunchConfig(), rank, Precision.bf16, torch.float32)
    for gather, reduce, most in ((None, None, 1e-6), (WireDtype.bf16, None, 0.05), (None, WireDtype.bf16, 0.01)):
        launch = LaunchConfig(strategy="fsdp", shard_size=2, gather_dtype=gather, reduce_dtype=reduce)
        found, grads = passes(launch, rank, Precision.bf16, torch.float32)
        worst = max(((grads[name] - own).norm() / own.norm()).item() for name, own in expected.items())
        assert (found == loss) == (gather is None) and abs(found / loss - 1) < 1e-3
        assert worst < most and (worst > 1e-4 or not (gather or reduce))
    held_by_two(rank)


@together
def narrow(rank: Rank) -> None:
    """In bf16 two processes send, and add up, what replicas do, to the bit: each its fp32 sum over micro-batches."""
    launches = [LaunchConfig(strategy=strategy, reduce_dtype=WireDtype.bf16) for strategy in ("ddp", "fsdp")]
    (loss, expected), (found, grads) = (passes(launch, rank, Precision.fp32, torch.float32) for launch in launches)
    assert found == loss and grads.keys() == expected.keys()
    assert all(torch.equal(grads[name], own) for name, own in expected.items())
    _, exact = passes(LaunchConfig(), rank, Precision.fp32, torch.float32)
    assert not torch.equal(exact["lm_head.weight"], expected["lm_head.weight"])


def held_by_two(rank: Rank) -> None:
    """Of two groups of two, ranks 1 and 3 hold the same share; a bit that differs is told."""
    model, handle = small_model("llama")
    launch = LaunchConfig(strategy="fsdp", shard_size=2)
    shard(Objective(model, LmLoss()), handle.layers, torch.device("cpu"), 4, launch)
    group = Group(rank, 60)
    group.require_same(weight_checksum(model), "its weights are not", 2)
    if rank.rank == 3:
        own = next(weight for weight in model.parameters() if isinstance(weight, DTensor)).to_local()
        own.detach().view(-1)[:1].view(torch.int32).bitwise_xor_(1)
    with pytest.raises(PeerLostError, match=r"^rank 3: its weights are not rank 1's"):
        group.require_same(weight_checksum(model), "its weights are not", 2)


@together
def building(rank: Rank) -> None:
    """Each process gets the first one's weights to the bit, ties and all, and never holds the whole model."""
    for family in ("gpt2", "llama"):
        (expected, _), (model, handle) = small_model(family), small_model(family)
        if not rank.first:
            model = empty_model(model.config)
            handle = apply_est(model, spec_of(model.config))
        shard(Objective(model, LmLoss()), handle.layers, torch.device("cpu"), 2, LaunchConfig(strategy="fsdp"))
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in expected.named_parameters()]
        for tensors in ("named_parameters", "named_buffers"):
            found = dict(getattr(model, tensors)())
            for name, tensor in getattr(expected, tensors)():
                own = found[name].detach()
                assert torch.equal(own.full_tensor() if isinstance(own, DTensor) else own, tensor)
    before, size = peak_bytes(), 4 * LARGE.hidden_size * LARGE.hidden_size * 14 * LARGE.num_hidden_layers
    model = AutoModelForCausalLM.from_config(LARGE, dtype=torch.float32) if rank.first else empty_model(LARGE)
    handle = apply_est(model, spec_of(LARGE))
    shard(Objective(model, LmLoss()), handle.layers, torch.device("cpu"), 2, LaunchConfig(strategy="fsdp"))
    share = (peak_bytes() - before) / size
    assert share > 0.5 and (rank.first or share < 0.85), share


LARGE = LlamaConfig(
    hidden_size=768, intermediate_size=2560, num_hidden_layers=8, num_attention_heads=12, vocab_size=100
)
"""14 hidden_size^2 entries in a layer."""


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))


@together
def muon(rank: Rank) -> None:
    """Shares of matrices change as whole ones do, to the bit, and a rejected step changes none."""
    found = []
    for strategy in ("ddp", "fsdp"):
        model, handle = small_model("gpt2")
        if strategy == "fsdp":
            shard(Objective(model, LmLoss()), handle.layers, torch.device("cpu"), 2, LaunchConfig(strategy=strategy))
        optimizer = build_optimizer(model, OptimConfig(name=OptimName.muon), handle)
        assert optimizer.muon is not None
        for step in range(3):
            torch.manual_seed(step)
            for parameter in (parameter for group in optimizer.muon.param_groups for parameter in group["params"]):
                parameter.grad = own_share(torch.randn(parameter.shape), parameter)
            step_muon(optimizer.muon, None if step else torch.tensor(2.0), torch.tensor(float(step == 2)))
            now = {**model_tensors(model), **optimizer_tensors(model, optimizer)}
            found.append({key: x.full_tensor() if isinstance(x, DTensor) else x.clone() for key, x in now.items()})
    replicas, shares = found[:3], found[3:]
    assert replicas[0].keys() == shares[0].keys() and any(key.endswith("/momentum_buffer") for key in shares[0])
    for one, other in (*zip(replicas, shares, strict=True), (shares[1], shares[2])):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(shares[0]["transformer.h.0.mlp.c_fc.weight"], shares[1]["transformer.h.0.mlp.c_fc.weight"])
