"""Short pieces of a run, trained again from one of its checkpoints with other sampling rates; the run stays as it is.

A segment is the run itself: its batches, learning rates, micro-batches and train_step(); only which subnetworks its
steps draw is another matter. Behind the sampled steps the complete model is cooled down: its learning rate falls to 0
on a line, so that the loss is that of a run which ends there, and not that of weights still on the move.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

import torch

from est_cli.common.errors import NumericsError
from est_cli.config import OnSpike, RunConfig, SamplingConfig, WandbMode
from est_cli.config.resolve import resolve
from est_cli.distributed import Group
from est_cli.distributed.hardware import runs_ahead
from est_cli.est import FULL, Flops, FlopsLedger, SamplingRates, SamplingScheduler
from est_cli.est.flops import flops_of, training_flops
from est_cli.est.sizes import SamplingOptions, full_sizes
from est_cli.storage.content import load_checkpoint
from est_cli.storage.disk import storage_errors
from est_cli.storage.manifest import Manifest
from est_cli.storage.run_dir import RunDir
from est_cli.storage.store import verify_folder
from est_cli.training.build import build
from est_cli.training.feed import Feed
from est_cli.training.optim import LossScale
from est_cli.training.parts import RunInputs, configured_corpus
from est_cli.training.run import Run, RunState
from est_cli.training.start import Start
from est_cli.training.step import train_step

T = TypeVar("T")
COMPLETE = SamplingRates()


@dataclass(frozen=True)
class Segment(Generic[T]):
    """What came of one: a measurement of the complete model behind the sampled steps, and one when it is cooled."""

    raw: T
    cooled: T
    ledger: FlopsLedger
    """Of the sampled steps."""
    step_s: float
    """Median seconds of a sampled step; 0 where there is none."""


@dataclass(frozen=True)
class Bench:
    """A run that stands at a checkpoint, and goes back there before every segment."""

    run: Run
    checkpoint: Path
    manifest: Manifest
    lr: float
    """The run's own optim.lr."""

    @property
    def step(self) -> int:
        """Steps that the checkpoint has done."""
        return int(self.manifest["meta"]["step"])

    def train(
        self,
        rates: SamplingRates,
        options: SamplingOptions,
        seed: int,
        steps: int,
        cooldown: int,
        measure: Callable[[], T],
        told: Callable[[], None],
    ) -> Segment[T]:
        """So many sampled steps at `rates`, drawn from `seed`, then the cool-down; `told` is called after each step.

        `measure` sees the complete model. Raises NumericsError where a step is not finite.
        """
        self._go_back()
        ledger, seconds, middle = FlopsLedger(), [], self.step + steps
        self._sample(rates, options, seed)
        for step in range(self.step, middle):
            begin = time.perf_counter()
            ledger.add(*self._step(step, 1.0))
            seconds.append(time.perf_counter() - begin)
            told()
        raw = self._measured(measure)
        self._sample(COMPLETE, options, seed)
        for number in range(cooldown):
            self._step(middle + number, 1.0 - (number + 1) / (cooldown + 1))
            told()
        return Segment(raw, self._measured(measure), ledger, median(seconds) if seconds else 0.0)

    def _go_back(self) -> None:
        run = self.run
        state = load_checkpoint(self.checkpoint, run.model, run.optimizer, verified=self.manifest)
        run.state = RunState.from_json(state, str(self.checkpoint))
        if run.loss_scale is not None:
            scale = run.state.loss_scale, run.state.good_steps
            run.loss_scale = LossScale.at(*scale, run.accelerator.device)

    def _sample(self, rates: SamplingRates, options: SamplingOptions, seed: int) -> None:
        """Have the steps from now on draw at `rates`; stages stay where they are, with their batches and clipping."""
        run = self.run
        run.feed.close()
        run.resolved = replace(run.resolved, scheduler=at_rates(run.scheduler, rates))
        run.generator = replace(run.generator, seed=seed, options=options)
        run.source = replace(run.source, scheduler=run.scheduler, generator=run.generator)
        run.feed = Feed(run.source.inputs_of, runs_ahead(run.accelerator.device))

    def _step(self, step: int, lr_factor: float) -> tuple[Flops, Flops]:
        """The FLOPs of the step, and those of the complete model in its place."""
        run, config = self.run, self.run.config
        optim = replace(config.optim, lr=self.lr * lr_factor)
        run.resolved = replace(run.resolved, config=replace(config, optim=optim))
        result = train_step(run, step)
        if not result.read().finite:
            raise NumericsError(f"{self.checkpoint}: step {step + 1} is not finite with {run.scheduler.rates_at(step)}")
        batch, pairs = run.batch.at(step), None if result.pairs is None else sum(result.pairs)
        whole = training_flops(run.spec, full_sizes(run.spec), batch.sequences, batch.seq_len, pairs)
        return flops_of(run.spec, result.ran, batch.seq_len, result.pairs), whole

    def _measured(self, measure: Callable[[], T]) -> T:
        run = self.run
        run.handle.activate(FULL)
        run.model.eval()
        with torch.compiler.set_stance("force_eager") if run.compiled else nullcontext():
            found = measure()
        run.model.train()
        return found


def at_rates(scheduler: SamplingScheduler, rates: SamplingRates) -> SamplingScheduler:
    """The same stages, all of them at `rates`."""
    return replace(scheduler, stages=tuple(replace(one, rates=rates, gamma=0.0) for one in scheduler.stages))


def _copy(checkpoint: Path, target: Path) -> None:
    """StorageError where the disk refuses."""
    with storage_errors(target, "{reason} ({code}), where the checkpoint is copied to; TMPDIR names another place"):
        target.mkdir(parents=True)
        for path in checkpoint.iterdir():
            shutil.copyfile(path, target / path.name)


@contextmanager
def opened_bench(config: RunConfig, checkpoint: Path) -> Iterator[Bench]:
    """The run of this configuration at one of its checkpoints, which is copied: nothing is written beside it.

    Raises what build() raises when the run is resumed.
    """
    config = deepcopy(config)
    config.sampling, config.tracking.wandb, config.tracking.also = SamplingConfig(), WandbMode.off, []
    config.train.on_spike, config.train.spike_window, config.train.spike_threshold = OnSpike.none, None, None
    config.resume = str(checkpoint.parent.parent)  # its text is there
    config.train.profile_step, config.train.log_layers_every, config.train.eval_tasks = None, 0, []
    manifest = verify_folder(checkpoint)
    run = resolve(config)
    complete = replace(run, scheduler=at_rates(run.scheduler, COMPLETE))
    with TemporaryDirectory(prefix="est-prices-") as place:
        folder = RunDir(Path(place))
        _copy(checkpoint, folder.checkpoints / checkpoint.name)

        @contextmanager
        def copied(start: Start, group: Group) -> Iterator[RunDir]:
            start.config.run_name = "prices"
            yield folder

        with build(Start(complete, None), RunInputs(configured_corpus, copied, quiet=True)) as built:
            yield Bench(built, checkpoint, manifest, config.optim.lr)
