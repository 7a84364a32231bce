"""A configuration is checked once and resolved once: check() gives what it amounts to, and that is handed on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from est_cli.common.errors import ConfigError
from est_cli.config.batch import batch_schedule, stage_problems
from est_cli.config.data import dataset_problems
from est_cli.config.launch import launch_problems
from est_cli.config.length import max_steps, with_steps
from est_cli.config.method import idle_problems, options_of, scheduler_problems
from est_cli.config.micro_batch import pieces, requested
from est_cli.config.model import HF, fit_problems, model_problems, preset_sizes
from est_cli.config.optim import decay_begin, lr_span_problems, optim_problems
from est_cli.config.paths import paths_problems
from est_cli.config.plan import PlanConfig, of_any_length, plan_problems
from est_cli.config.run import RunConfig, run_problems, tokenizer_of
from est_cli.config.schedulers import scheduler_named
from est_cli.config.setting import range_problems, refuse
from est_cli.config.training import micro_batch_problems, train_problems
from est_cli.est.batch import BatchSchedule
from est_cli.est.by_sequence import ALONE, draws_by_sequence
from est_cli.est.flops import FlopsLedger, ledger_of, planned_counts
from est_cli.est.schedule import SamplingScheduler
from est_cli.est.sizes import MicroBatchSplit, SamplingOptions, SequenceCounts, draws_of, scheduled_sizes
from est_cli.est.spec import ModelSpec


@dataclass(frozen=True)
class Resolved:
    """What a checked configuration amounts to."""

    config: RunConfig
    max_steps: int
    tokenizer: str
    """Its name, `bpe` for one that is trained on the corpus."""
    scheduler: SamplingScheduler
    options: SamplingOptions
    batch: BatchSchedule
    """Sequences of each step and their length."""
    micro_batches: tuple[int | None, ...]
    """Sequences per forward pass and rank in each stage, as they are asked for; None: the largest that fits."""

    @property
    def decay_begin(self) -> int | None:
        """See optim.decay_begin."""
        return decay_begin(self.config.optim, self.batch)

    @property
    def lasting(self) -> list[int]:
        """The steps whose checkpoints are saved and kept: at transitions, and where the decay begins."""
        decay = self.decay_begin
        found = {*self.scheduler.milestones(), *(() if decay is None else (decay,))}
        return sorted(step for step in found if 0 < step < self.max_steps)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps, whatever stops the run."""
        every = self.config.train.checkpoint_every
        return step in self.lasting or (every > 0 and step % every == 0)

    def splits(self, world_size: int) -> dict[int, MicroBatchSplit]:
        """How a step of each stage is split, by its number; a micro-batch that is not chosen yet counts as whole."""
        of_stages = zip(self.batch.stages, self.micro_batches, strict=True)
        return {
            number: MicroBatchSplit(tuple(pieces(step.sequences, size or step.sequences, world_size)), world_size)
            for number, (step, size) in enumerate(of_stages, start=1)
        }

    def split_problems(self, world_size: int) -> Iterator[str]:
        """What does not go with how a step is cut among so many processes."""
        splits, stages = self.splits(world_size), self.scheduler.stages
        sampled = [number for number in self.scheduler.occupied() if stages[number - 1].rates.sampled]
        draws = [len(draws_of(self.options, splits[number])) for number in sampled]
        apart = [number for number in sampled if draws_by_sequence(stages[number - 1].rates, self.options)]
        if 1 in {count // world_size for number in apart for count in splits[number].micro_batches}:
            yield ALONE
        if self.options.cover == "balanced" and draws and max(draws) == 1:
            more = "a smaller train.micro_batch" if self.options.redraw == "forward" else "more processes"
            yield f"sampling.cover: balanced shares units out among the draws of a step, and there is one; use {more}"

    def planned(self, spec: ModelSpec, world_size: int) -> dict[int, SequenceCounts]:
        """What the whole run will run of the model that `spec` describes, by stage (see planned_counts).

        Raises ValueError where the rates do not fit the model.
        """
        batch, seed = [step.sequences for step in self.batch.stages], self.config.seed
        return planned_counts(spec, self.scheduler, self.options, batch, seed, self.splits(world_size))

    def ledger(self, spec: ModelSpec, planned: Mapping[int, SequenceCounts]) -> FlopsLedger:
        """The ledger of the stages in `planned` (see planned()) when all their steps are done."""
        return ledger_of(spec, planned, [step.seq_len for step in self.batch.stages])

    def check_fit(self, sizes: ModelSpec) -> None:
        """Raise ConfigError where the run does not fit the model. check() does it for presets, whose sizes it knows."""
        for problem in self._fit_problems(sizes):
            raise ConfigError(problem)

    def _fit_problems(self, sizes: ModelSpec) -> Iterator[str]:
        yield from fit_problems(self.config, sizes)
        try:
            scheduled_sizes(sizes, self.scheduler, self.options)
        except ValueError as error:
            yield str(error)
        yield from idle_problems(self.options, self.scheduler, sizes)


def check(config: RunConfig) -> Resolved:
    """What the configuration amounts to. Raises one ConfigError that names every problem."""
    given, config = config, with_steps(of_any_length(config))
    steps = max_steps(config)
    refuse(
        [
            *range_problems(config),
            *model_problems(config.model),
            *dataset_problems(config.dataset, tokenizer_of(config)),
            *train_problems(config),
            *run_problems(config),
            *optim_problems(config),
            *scheduler_problems(config, steps),
            *launch_problems(config),
            *paths_problems(config.paths),
            *(plan_problems(given) if isinstance(given, PlanConfig) else ()),
        ]
    )
    refuse(stage_problems(config.train, len(scheduler_named(config.scheduler.name).make(steps, config.stage).stages)))
    run = resolve(config)
    refuse(lr_span_problems(config.optim, run.batch))
    refuse(run._fit_problems(preset_sizes(config.model)) if config.model.family != HF else ())
    redrawn = config.sampling.redraw == "forward" or config.sampling.layers_by == "sequence"
    refuse(micro_batch_problems(run, redrawn or drops_entries(config)))
    if config.sampling.ranks == "same":  # else processes are counted when they are there: other launchers start them
        refuse(run.split_problems(config.launch.num_processes))
    return run


def resolve(config: RunConfig) -> Resolved:
    """What a configuration amounts to that was checked already.

    Raises ValueError where its scheduler cannot be made.
    """
    steps, train = max_steps(config), config.train
    scheduler = scheduler_named(config.scheduler.name).make(steps, config.stage)
    return Resolved(
        config=config,
        max_steps=steps,
        tokenizer=tokenizer_of(config),
        scheduler=scheduler,
        options=options_of(config.sampling),
        batch=batch_schedule(train, scheduler),
        micro_batches=tuple(requested(train.micro_batch, len(scheduler.stages))),
    )


def planned_ledger_of(config: RunConfig, spec: ModelSpec) -> FlopsLedger:
    """What the ledger of a finished run of `config` will show. Raises ValueError where the rates do not fit."""
    run = resolve(config)
    return run.ledger(spec, run.planned(spec, config.launch.num_processes))


def drops_entries(config: RunConfig) -> bool:
    """Whether plain dropout takes part, whose random numbers depend on how a step is cut into micro-batches."""
    return config.model.dropout > 0 or scheduler_named(config.scheduler.name).drops_entries


def depends_on_split(config: RunConfig) -> tuple[str, ...]:
    """The settings under which another number of processes or another micro-batch would train something else."""
    reasons = {
        "sampling.redraw=forward": config.sampling.redraw == "forward",
        "sampling.ranks=independent": config.sampling.ranks == "independent",
        "sampling.layers_by=sequence": config.sampling.layers_by == "sequence",
        "model.dropout > 0": config.model.dropout > 0,
        f"scheduler={config.scheduler.name}": scheduler_named(config.scheduler.name).drops_entries,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
