"""What a planned run needs of memory and of disk. It takes the model's own code, and so the import of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from est_cli.common.waiting import waiting
from est_cli.config import LmLossKind, Packing, Precision
from est_cli.config.resolve import Resolved
from est_cli.distributed.hardware import device_type, repeats_kv_heads, settled_precision
from est_cli.planning import memory_cache
from est_cli.planning.plan import Plan
from est_cli.planning.resources import Disk, disk_of
from est_cli.training.memory_estimate import Activations, MemoryEstimate


@dataclass(frozen=True)
class StageMemory:
    """Of one stage, in bytes of each process."""

    number: int
    micro_batch: int | None
    """Sequences per forward pass; None: chosen when the run starts."""
    strategy: str
    states_under: dict[str, int]
    """By strategy (ddp, fsdp): weights, gradients and moments."""
    activations: Activations

    @property
    def states(self) -> int:
        """Under the strategy of the run."""
        return self.states_under[self.strategy]

    @property
    def kept(self) -> int:
        """For the backward pass of a micro-batch, of one sequence where its size is not chosen yet."""
        return self.activations.of(self.micro_batch or 1)

    @property
    def whole(self) -> int:
        return self.states + self.kept


@dataclass(frozen=True)
class PlannedMemory:
    """Of a plan."""

    estimate: MemoryEstimate
    stages: list[StageMemory]
    disk: Disk

    def under(self, strategy: str) -> int:
        """Bytes that each process needs at most, in any stage."""
        return max(stage.states_under[strategy] + stage.kept for stage in self.stages)


def memory_of(plan: Plan) -> PlannedMemory:
    """Estimate it, or take what was estimated for an earlier plan. ConfigError where the model cannot be made."""
    stages, device = [stage.number for stage in plan.stages], _device(plan.run)
    path = memory_cache.file_of(plan.run, stages, *device)
    estimate = memory_cache.read(path)
    if estimate is None:
        with waiting(True, "memory: the model's code is read"):
            estimate = _estimated(plan.run, stages, *device)
        memory_cache.keep(path, estimate)
    disk = disk_of(plan.run, estimate.parameters, estimate.states, plan.spec.vocab_size)
    return PlannedMemory(estimate, [*_stages(plan, estimate)], disk)


def _device(run: Resolved) -> tuple[Precision, bool]:
    """What it computes in, and whether it repeats grouped KV heads."""
    device = torch.device(device_type())
    precision = run.config.train.precision or settled_precision(None, device)  # a plan may be for another machine
    return precision, repeats_kv_heads(device, precision)


def _stages(plan: Plan, estimate: MemoryEstimate) -> Iterator[StageMemory]:
    launch = plan.run.config.launch
    for stage, activations in zip(plan.stages, estimate.activations, strict=True):
        own = plan.batch.of_stage(stage.number).sequences // launch.num_processes
        accumulates = (plan.run.micro_batches[stage.number - 1] or 0) < own
        sampled = stage.flops.blocks / stage.dense.blocks
        yield StageMemory(
            number=stage.number,
            micro_batch=stage.micro_batch,
            strategy=launch.strategy,
            states_under={
                strategy: estimate.states_under(replace(launch, strategy=strategy), accumulates, sampled)
                for strategy in ("ddp", "fsdp")
            },
            activations=activations,
        )


def _estimated(run: Resolved, stages: list[int], precision: Precision, repeated: bool) -> MemoryEstimate:
    from est_cli.families import spec_of
    from est_cli.models import hf_config  # transformers, of which nothing else here has need
    from est_cli.models.lm_loss import LmLoss
    from est_cli.training.memory import estimate_memory

    config, train, hf = run.config, run.config.train, hf_config(run.config.model)
    kind = "whole" if train.lm_loss is LmLossKind.whole else "chunked"  # torch's own keeps what chunked keeps
    end_of_text = 0 if config.dataset.packing is Packing.document else None  # whichever it is, the masks are as large
    return estimate_memory(
        hf,
        spec_of(hf),
        run.options,
        [run.scheduler.stages[number - 1].rates for number in stages],
        [run.batch.of_stage(number).seq_len for number in stages],
        precision,
        train.activation_checkpointing,
        LmLoss(kind, end_of_text=end_of_text),
        train.attention,
        config.optim,
        repeated,
    )
