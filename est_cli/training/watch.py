"""What is looked at after each step: gradients that are not finite, processes that differ, graphs, garbage."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from est_cli.common.errors import NumericsError
from est_cli.distributed import Agreed, weight_checksum
from est_cli.distributed.device import RECOMPILE_LIMIT, compiled_graphs
from est_cli.tracking import In
from est_cli.training.optim import PATIENCE
from est_cli.training.run import Run
from est_cli.training.spike_guard import Limits, described, told_of
from est_cli.training.step import StepNumbers

COLLECT_EVERY = 50
"""Steps between two collections of garbage in runs of several processes."""

NEAR_LIMIT = 0.75
"""Share of the graphs that torch compiles, from which on a person is told."""

MAX_REJECTED = 3
"""Steps in a row whose gradient is not finite before the run stops; under fp16 the search for a scale comes first."""

_TOLD: list[int] = []
"""The graphs that were there when a person was told of them, once in a process."""


def guard(run: Run, step: int, numbers: StepNumbers, limits: Limits | None = None) -> None:
    """A step without a finite gradient changed nothing; several in a row mean that training is lost.

    A spike that was skipped changed nothing either; `limits`: by which it was told.
    """
    state, first = run.state, run.reading.first_sample(step)
    if numbers.finite:
        state.rejected_in_a_row = 0
        if numbers.skipped:
            _tell_skipped(run, step, numbers, limits)
        return
    state.rejected_in_a_row += 1
    samples = run.reading.samples_at(step)
    where = f"step {step + 1} (samples {first} to {first + samples - 1})"
    run.tracker.event(In.not_finite, {"step": step + 1, "first_sample": first, "samples": samples})
    run.progress.line(f"warning: loss or gradient not finite at {where}; the update was left out")
    most = MAX_REJECTED + (PATIENCE if run.loss_scale is not None else 0)
    if state.rejected_in_a_row >= most:
        raise NumericsError(
            f"{run.dir.root}: loss or gradient not finite for {most} steps in a row, last at {where}; "
            "lower optim.lr or look at these samples"
        )


def _tell_skipped(run: Run, step: int, numbers: StepNumbers, limits: Limits | None) -> None:
    assert limits is not None, "a step is skipped by its limits"
    told = {"step": step + 1, "first_sample": run.reading.first_sample(step), "samples": run.reading.samples_at(step)}
    run.tracker.event(In.skipped, told | described(numbers.loss, numbers.grad_norm, limits))
    run.progress.line(f"warning: {told_of(step, numbers.loss, numbers.grad_norm, limits)}; the update was left out")


def compare_replicas(run: Run, step: int, agreed: Agreed) -> None:
    """Raise PeerLostError where processes have come to train different things."""
    if not agreed.same:
        for drawn in (step, min(step + 1, run.scheduler.max_steps - 1)):
            run.group.require_same(run.feed.again(drawn).digest, f"drew another subnetwork in step {drawn + 1} than")
        raise AssertionError("the digests differed and now they do not")
    launch, processes = run.config.launch, run.rank.world_size
    apart = 1 if launch.strategy == "ddp" else launch.shard_size or processes  # ranks that hold the same weights
    if launch.check_every and (step + 1) % launch.check_every == 0 and apart < processes:
        run.group.require_same(weight_checksum(run.model), f"its weights after step {step + 1} are not", apart)


def watch_graphs(run: Run) -> None:
    """Beyond its limit torch goes on without compiling and says nothing."""
    graphs = compiled_graphs()
    if graphs >= NEAR_LIMIT * RECOMPILE_LIMIT and not _TOLD:
        _TOLD.append(graphs)
        run.progress.line(
            f"warning: {graphs} graphs are compiled; from {RECOMPILE_LIMIT} on torch runs new shapes uncompiled: fewer "
            "stage.levels, or one train.micro_batch that divides the step, make fewer"
        )


@contextmanager
def collecting(run: Run) -> Iterator[Callable[[int], None]]:
    """Of several processes all collect garbage after the same steps: otherwise each waits for whichever does so now."""
    if run.rank.world_size == 1 or not gc.isenabled():
        yield lambda step: None
        return

    def collect(step: int) -> None:
        if (step + 1) % COLLECT_EVERY == 0:
            gc.collect(1)

    gc.collect()
    gc.disable()
    try:
        yield collect
    finally:
        gc.enable()
