"""A plan: the stages of a run with their steps, tokens, FLOPs and memory, from the configuration alone.

With probe=true also their seconds, which are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from est_cli.common.errors import ConfigError
from est_cli.config import LmLossKind, Packing, PlanConfig, Precision
from est_cli.config.batch import longest_sequence
from est_cli.config.model import HF, preset_sizes
from est_cli.config.plan import of_any_length
from est_cli.config.resolve import Resolved, planned_ledger_of, resolve
from est_cli.distributed.hardware import device_type, repeats_kv_heads, settled_precision
from est_cli.est import Flops, FlopsLedger, ModelSpec, SamplingScheduler
from est_cli.est.batch import BatchSchedule
from est_cli.est.sizes import MicroBatchSplit, RealisedRates, SamplingOptions, SequenceCounts, realised_rates
from est_cli.planning import memory_cache
from est_cli.planning.resources import Disk, GpuHours, disk_of, gpu_hours
from est_cli.planning.targets import TargetSolution, solve_target
from est_cli.training.memory_estimate import Activations, MemoryEstimate

if TYPE_CHECKING:
    from est_cli.training.probe import StepSeconds


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the plan; FLOPs of all its steps."""

    number: int
    first_step: int
    steps: int
    tokens: int
    rates: RealisedRates
    flops: Flops
    dense: Flops
    micro_batch: int | None
    """Sequences per forward pass; None: chosen when the run starts."""
    strategy: str
    states_under: dict[str, int]
    """By strategy (ddp, fsdp): bytes of weights, gradients and moments in each process."""
    activations: Activations

    @property
    def states(self) -> int:
        """Under the strategy of the run."""
        return self.states_under[self.strategy]

    @property
    def memory(self) -> int:
        """Bytes that each process needs."""
        return self.states + self.activation_bytes

    @property
    def activation_bytes(self) -> int:
        """Kept for the backward pass of a micro-batch, of one sequence where the size is not chosen yet."""
        return self.activations.of(self.micro_batch or 1)


@dataclass(frozen=True)
class Plan:
    model: str
    spec: ModelSpec
    scheduler: SamplingScheduler
    options: SamplingOptions
    splits: dict[int, MicroBatchSplit]
    """How a step of each stage is split, by its number."""
    seed: int
    stages: list[PlannedStage]
    ledger: FlopsLedger
    """What the finished run's ledger will show; at most, where documents are apart."""
    apart: bool
    """Whether documents of a sequence do not see each other."""
    memory: MemoryEstimate
    batch: BatchSchedule
    """Of each step."""
    target: TargetSolution | None
    """What a target asked for, and the settings that meet it."""
    step_s: StepSeconds | None
    """With probe=true: measured."""
    processes: int
    gpu_hours: list[GpuHours]
    mfu: float
    """What they assume."""
    disk: Disk
    length_given: bool
    """Whether anybody said how long the run is; the default is that of a first run."""

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.batch.tokens_before(self.scheduler.max_steps)

    @property
    def time_s(self) -> float | None:
        """Seconds of all steps, as far as measured; evaluation and checkpoints come on top."""
        if self.step_s is None:
            return None
        return sum(stage.steps * self.step_s.stages[stage.number].median for stage in self.stages)

    def memory_under(self, strategy: str) -> int:
        """Bytes that each process needs at most, in any stage."""
        return max(stage.states_under[strategy] + stage.activation_bytes for stage in self.stages)

    @property
    def time_saved_pct(self) -> float | None:
        """Of the time that as many steps of the complete model take."""
        if self.step_s is None or self.time_s is None:
            return None
        return 100.0 * (1.0 - self.time_s / (self.scheduler.max_steps * self.step_s.complete.median))


def make_plan(config: PlanConfig) -> Plan:
    """The plan of a checked configuration. Raises ConfigError where the model or a target does not allow it."""
    spec = _spec(config)
    resolve(of_any_length(config)).check_fit(spec)
    apart = config.dataset.packing is Packing.document
    if apart:
        _check_documents(config)
    try:
        found = solve_target(config, lambda tried: planned_ledger_of(tried, spec))
        config = config if found is None else found.config
        run = resolve(config)
        planned = run.planned(spec, config.launch.num_processes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    train = config.train
    memory, ledger = _memory(run, [*planned]), run.ledger(spec, planned)
    return Plan(
        model=config.model.name,
        spec=spec,
        scheduler=run.scheduler,
        options=run.options,
        splits=run.splits(config.launch.num_processes),
        seed=config.seed,
        stages=[*_stages(run, spec, planned, memory)],
        ledger=ledger,
        apart=apart,
        memory=memory,
        batch=run.batch,
        target=found,
        step_s=_measured(config) if config.probe else None,
        processes=config.launch.num_processes,
        gpu_hours=gpu_hours(config.gpus, config.train.precision, config.mfu, ledger),
        mfu=config.mfu,
        disk=disk_of(run, memory.parameters, memory.states, spec.vocab_size),
        length_given=any(length is not None for length in (train.max_steps, train.max_tokens, train.max_flops)),
    )


def _measured(config: PlanConfig) -> StepSeconds:
    from est_cli.training.probe import step_seconds  # the whole training loop: only for those who ask for it

    return step_seconds(config)


def _memory(run: Resolved, stages: list[int]) -> MemoryEstimate:
    """Of each of `stages`."""
    device = torch.device(device_type())
    precision = run.config.train.precision or settled_precision(None, device)  # a plan may be for another machine
    repeated = repeats_kv_heads(device, precision)
    path = memory_cache.file_of(run, stages, precision, repeated)
    if (kept := memory_cache.read(path)) is not None:
        return kept
    estimate = _estimated(run, stages, precision, repeated)
    memory_cache.keep(path, estimate)
    return estimate


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


def _spec(config: PlanConfig) -> ModelSpec:
    """Of a preset without a look at transformers."""
    if config.model.family != HF:
        return preset_sizes(config.model)
    from est_cli.families import spec_of
    from est_cli.models import hf_config

    return spec_of(hf_config(config.model))


def _check_documents(config: PlanConfig) -> None:
    from est_cli.models import hf_config
    from est_cli.models.documents import check_documents

    check_documents(hf_config(config.model), longest_sequence(config.train))


def _stages(
    run: Resolved, spec: ModelSpec, planned: dict[int, SequenceCounts], memory: MemoryEstimate
) -> Iterator[PlannedStage]:
    launch, scheduler = run.config.launch, run.scheduler
    for (number, ran), activations in zip(planned.items(), memory.activations, strict=True):
        steps, batch = scheduler.stage_steps()[number - 1], run.batch.of_stage(number)
        requested, own, ledger = (
            run.micro_batches[number - 1],
            batch.sequences // launch.num_processes,
            run.ledger(spec, {number: ran}),
        )
        accumulates, sampled = (requested or 0) < own, ledger.used.blocks / ledger.dense.blocks
        yield PlannedStage(
            number=number,
            first_step=scheduler.stages[number - 1].until_step - steps,
            steps=steps,
            tokens=steps * batch.tokens,
            rates=realised_rates(spec, ran),
            flops=ledger.used,
            dense=ledger.dense,
            micro_batch=None if requested is None else min(requested, own),
            strategy=launch.strategy,
            states_under={
                strategy: memory.states_under(replace(launch, strategy=strategy), accumulates, sampled)
                for strategy in ("ddp", "fsdp")
            },
            activations=activations,
        )
