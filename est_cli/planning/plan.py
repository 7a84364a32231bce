"""A plan: the stages of a run with their steps, tokens and FLOPs, from the configuration alone.

With probe=true also their seconds, which are measured. What they need of memory is in memory.py: it needs the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from est_cli.common.errors import ConfigError
from est_cli.config import Packing, PlanConfig
from est_cli.config.batch import longest_sequence
from est_cli.config.model import HF, preset_sizes
from est_cli.config.plan import of_any_length
from est_cli.config.prices import Prediction, predicted
from est_cli.config.resolve import Resolved, planned_ledger_of, resolve
from est_cli.est import Flops, FlopsLedger, ModelSpec, SamplingScheduler
from est_cli.est.batch import BatchSchedule
from est_cli.est.sizes import (
    MicroBatchSplit,
    RealisedRates,
    SamplingOptions,
    SequenceCounts,
    realised_p_t,
    realised_rates,
)
from est_cli.families import FAMILIES
from est_cli.planning.priced import solve_by_prices
from est_cli.planning.resources import GpuHours, gpu_hours
from est_cli.planning.targets import TargetSolution, solve_target

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
    p_t: float
    """The realised share of its predictions that a loss is the mean of."""
    flops: Flops
    dense: Flops
    micro_batch: int | None
    """Sequences per forward pass; None: chosen when the run starts."""


@dataclass(frozen=True)
class Plan:
    model: str
    run: Resolved
    """What is planned: the configuration, with the settings that a target has found."""
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
    batch: BatchSchedule
    """Of each step."""
    target: TargetSolution | None
    """What a target asked for, and the settings that meet it."""
    prediction: Prediction | None
    """With prices: what the run is expected to end with."""
    step_s: StepSeconds | None
    """With probe=true: measured."""
    processes: int
    gpu_hours: list[GpuHours]
    mfu: float
    """What they assume."""
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
    if apart and config.model.family not in FAMILIES:  # of ours the configuration says all that there is to check
        _check_documents(config)
    try:
        if config.prices is not None and config.target_saving is not None:
            found: TargetSolution | None = solve_by_prices(config, spec, config.prices, config.target_saving)
        else:
            found = solve_target(config, lambda tried: planned_ledger_of(tried, spec))
        config = config if found is None else found.config
        run = resolve(config)
        planned = run.planned(spec, config.launch.num_processes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    train = config.train
    ledger = run.ledger(spec, planned)
    return Plan(
        model=config.model.name,
        run=run,
        spec=spec,
        scheduler=run.scheduler,
        options=run.options,
        splits=run.splits(config.launch.num_processes),
        seed=config.seed,
        stages=[*_stages(run, spec, planned)],
        ledger=ledger,
        apart=apart,
        batch=run.batch,
        target=found,
        prediction=None if config.prices is None else predicted(run, config.prices),
        step_s=_measured(config) if config.probe else None,
        processes=config.launch.num_processes,
        gpu_hours=gpu_hours(config.gpus, config.train.precision, config.mfu, ledger),
        mfu=config.mfu,
        length_given=any(length is not None for length in (train.max_steps, train.max_tokens, train.max_flops)),
    )


def _measured(config: PlanConfig) -> StepSeconds:
    from est_cli.training.probe import step_seconds  # the whole training loop: only for those who ask for it

    return step_seconds(config)


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


def _stages(run: Resolved, spec: ModelSpec, planned: dict[int, SequenceCounts]) -> Iterator[PlannedStage]:
    launch, scheduler = run.config.launch, run.scheduler
    for number, ran in planned.items():
        steps, batch = scheduler.stage_steps()[number - 1], run.batch.of_stage(number)
        requested, own = run.micro_batches[number - 1], batch.sequences // launch.num_processes
        ledger = run.ledger(spec, {number: ran})
        yield PlannedStage(
            number=number,
            first_step=scheduler.stages[number - 1].until_step - steps,
            steps=steps,
            tokens=steps * batch.tokens,
            rates=realised_rates(spec, ran),
            p_t=realised_p_t(ran, batch.seq_len),
            flops=ledger.used,
            dense=ledger.dense,
            micro_batch=None if requested is None else min(requested, own),
        )
