"""A plan: the stages of a run with their steps, tokens, FLOPs and memory, from the configuration alone.

With probe=true also their seconds, which are measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import LmLossKind, Packing, PlanConfig
from est_cli.config.batch import longest_sequence
from est_cli.config.plan import of_any_length
from est_cli.config.resolve import Resolved, planned_ledger_of, resolve
from est_cli.distributed.device import own_device
from est_cli.distributed.hardware import repeats_kv_heads, settled_precision
from est_cli.est import Flops, FlopsLedger, ModelSpec, SamplingScheduler
from est_cli.est.batch import BatchSchedule
from est_cli.est.sizes import RealisedRates, SamplingOptions, SequenceCounts, realised_rates
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.models.documents import check_documents
from est_cli.models.lm_loss import LmLoss
from est_cli.planning.targets import TargetSolution, solve_target
from est_cli.training.memory import Activations, MemoryEstimate, estimate_memory

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
    states: int
    """Bytes of weights, gradients and moments in each process."""
    activations: Activations

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

    @property
    def time_s(self) -> float | None:
        """Seconds of all steps, as far as measured; evaluation and checkpoints come on top."""
        return (
            None
            if self.step_s is None
            else sum(stage.steps * self.step_s.stages[stage.number] for stage in self.stages)
        )

    @property
    def time_saved_pct(self) -> float | None:
        """Of the time that as many steps of the complete model take."""
        if self.step_s is None or self.time_s is None:
            return None
        return 100.0 * (1.0 - self.time_s / (self.scheduler.max_steps * self.step_s.complete))


def make_plan(config: PlanConfig) -> Plan:
    """The plan of a checked configuration. Raises ConfigError where the model or a target does not allow it."""
    hf = hf_config(config.model)
    spec = spec_of(hf)
    resolve(of_any_length(config)).check_fit(spec)
    apart = config.dataset.packing is Packing.document
    if apart:
        check_documents(hf, longest_sequence(config.train))
    try:
        found = solve_target(config, lambda tried: planned_ledger_of(tried, spec))
        config = config if found is None else found.config
        run = resolve(config)
        planned = run.planned(spec, config.launch.num_processes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    memory = _memory(run, hf, spec, [*planned])
    return Plan(
        model=config.model.name,
        spec=spec,
        scheduler=run.scheduler,
        options=run.options,
        seed=config.seed,
        stages=[*_stages(run, spec, planned, memory)],
        ledger=run.ledger(spec, planned),
        apart=apart,
        memory=memory,
        batch=run.batch,
        target=found,
        step_s=_measured(config) if config.probe else None,
    )


def _measured(config: PlanConfig) -> StepSeconds:
    from est_cli.training.probe import step_seconds  # the whole training loop: only for those who ask for it

    return step_seconds(config)


def _memory(run: Resolved, hf: Any, spec: ModelSpec, stages: list[int]) -> MemoryEstimate:
    """Of each of `stages`."""
    config = run.config
    train, device = config.train, own_device(Rank())
    kind = "whole" if train.lm_loss is LmLossKind.whole else "chunked"  # torch's own keeps what chunked keeps
    end_of_text = 0 if config.dataset.packing is Packing.document else None  # whichever it is, the masks are as large
    precision = train.precision or settled_precision(None, device)  # a plan may be for another machine
    return estimate_memory(
        hf,
        spec,
        run.options,
        [run.scheduler.stages[number - 1].rates for number in stages],
        [run.batch.of_stage(number).seq_len for number in stages],
        precision,
        train.activation_checkpointing,
        LmLoss(kind, end_of_text=end_of_text),
        train.attention,
        config.optim,
        repeats_kv_heads(device, precision),
    )


def _stages(
    run: Resolved, spec: ModelSpec, planned: dict[int, SequenceCounts], memory: MemoryEstimate
) -> Iterator[PlannedStage]:
    launch, scheduler = run.config.launch, run.scheduler
    for (number, ran), activations in zip(planned.items(), memory.activations, strict=True):
        steps, batch = scheduler.stage_steps()[number - 1], run.batch.of_stage(number)
        ledger = run.ledger(spec, {number: ran})
        requested = run.micro_batches[number - 1]
        yield PlannedStage(
            number=number,
            first_step=scheduler.stages[number - 1].until_step - steps,
            steps=steps,
            tokens=steps * batch.tokens,
            rates=realised_rates(spec, ran),
            flops=ledger.used,
            dense=ledger.dense,
            micro_batch=None if requested is None else min(requested, batch.sequences),
            states=memory.states_under(launch, (requested or 0) * launch.num_processes < batch.sequences),
            activations=activations,
        )
