"""Sequences per forward pass in each stage: as asked for, or the most that fit, found before the first step.

The last stage runs the complete model as a rule and needs the most memory, so it is looked at first: a run that would
end there for want of memory does not begin.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache

import torch

from est_cli.common.errors import ConfigError, OutOfMemory
from est_cli.distributed import FullySharded, Group
from est_cli.distributed.hardware import runs_ahead
from est_cli.est.flops import of_each_stage
from est_cli.est.positions import first_positions
from est_cli.est.sizes import scheduled_sizes
from est_cli.models.lm_loss import target_count
from est_cli.training.memory import MemoryEstimate, available_bytes, estimate_memory
from est_cli.training.optim import missing_moments
from est_cli.training.run import Run
from est_cli.training.step import forward_backward

CPU_SHARE = 0.5
"""Of the memory that is available, what `auto` may count on for a CPU: the allocator's gaps and what lives for a moment
take up to 0.7 times as much again (measured on GPT-2 in fp32)."""
CUDA_RESERVE = 0.03
"""Of a GPU's memory, what `auto` leaves free: later allocations find the memory in other pieces than the probe did."""

Fits = Callable[[int, int], bool]
"""(stage number, sequences) -> whether a forward and backward pass of so many fits into the memory."""
Covers = Callable[[int, int], bool]
"""(later stage, earlier stage) -> whether nothing in the earlier one is larger."""


def resolve(run: Run) -> dict[int, int]:
    """Stage number -> sequences per micro-batch, for the stages that `run` still has before it.

    Where a resumed run had found sizes under auto, it keeps them if they fit: other sizes would change its last bits.
    Raises OutOfMemory. Weights, moments and gradients are as before, and the complete model is active.
    """
    fits = _agreed(_probe(run), run.group)
    requested_sizes, found = run.resolved.micro_batches, run.state.micro_batches
    kept = [found.get(str(stage)) if size is None else size for stage, size in enumerate(requested_sizes, start=1)]
    stages, covers = _stages_to_come(run), _covers(run)
    own = [step.sequences // run.rank.world_size for step in run.batch.stages]
    try:
        return choose(kept, stages, own, fits, covers)
    except OutOfMemory:
        if kept == list(requested_sizes):
            raise
    return choose(requested_sizes, stages, own, fits, covers)


def rehearse(run: Run) -> None:
    """Run the largest micro-batch of the last stage before the first step: it is compiled, and on a GPU seen to fit.

    Otherwise both would come at its first step, hours later; under fsdp nothing else tries what fits. Raises
    OutOfMemory. Nothing of it stays but what was compiled.
    """
    if not run.compiled and not (isinstance(run.gradient_sync, FullySharded) and runs_ahead(run.accelerator.device)):
        return
    stage = max(run.micro_batches)
    run.progress.line(f"compiling what stage {stage} runs" if run.compiled else f"trying what stage {stage} runs")
    if not _survives(run, stage, run.micro_batches[stage], compiled=True, reserve=0.0):
        raise _too_large(stage, run.micro_batches[stage])


def _probe(run: Run) -> Fits:
    if isinstance(run.gradient_sync, FullySharded):
        # A pass that one process cannot finish leaves the others waiting; rehearse() tries one size, and then all end.
        return lambda stage, size: True
    device = run.accelerator.device.type
    if device not in ("cpu", "cuda") and None in run.resolved.micro_batches:
        raise ConfigError(f"train.micro_batch: auto cannot tell what fits on {device}; give a number")
    return probe_on_device(run) if device == "cuda" else fits_in_memory(run)


def _agreed(fits: Fits, group: Group) -> Fits:
    """Whether it fits in every process."""
    return lambda stage, size: bool(group.smallest([int(fits(stage, size))])[0])


def choose(
    requested_sizes: Sequence[int | None],
    stages: Sequence[int],
    sequences: int | Sequence[int],
    fits: Fits,
    covers: Covers = lambda *_: True,
) -> dict[int, int]:
    """Stage number -> sequences per micro-batch, for `stages` in a run with so many `sequences` in a step, one number
    or one for each stage.

    `requested_sizes` holds an entry for every stage of the scheduler, None for auto: the largest divisor of
    `sequences` that fits, since an uneven last micro-batch would be one more shape to compile. What fits in a later
    stage fits in those before it that it `covers`, and is not tried again. Raises OutOfMemory.
    """
    chosen: dict[int, int] = {}
    of_each = of_each_stage(sequences, len(requested_sizes))
    for stage in sorted(stages, reverse=True):
        size, count = requested_sizes[stage - 1], of_each[stage - 1]
        known = max((chosen[later] for later in chosen if covers(later, stage)), default=0)  # the largest that fits
        if size is None:
            chosen[stage] = _largest(stage, count, known, fits)
        else:
            chosen[stage] = min(size, count)
            if chosen[stage] > known and not fits(stage, chosen[stage]):
                raise _too_large(stage, chosen[stage])
    return dict(sorted(chosen.items()))


def probe_on_device(run: Run) -> Fits:
    """`fits` by trying it on the GPU, with the optimizer's moments, and gradients where a step accumulates them.

    What `auto` asks about runs without compilation, which would compile every size that is tried: it needs no less
    memory. A number of the user is refused only if it does not fit with compilation either.
    """
    requested_sizes = run.resolved.micro_batches

    def fits(stage: int, size: int) -> bool:
        if requested_sizes[stage - 1] is None:
            return _survives(run, stage, size, compiled=False, reserve=CUDA_RESERVE)
        return any(_survives(run, stage, size, compiled, reserve=0.0) for compiled in (False, True))

    return fits


def fits_in_memory(run: Run) -> Fits:
    """`fits` by calculation, for a CPU: a process that takes too much is killed there. Only auto is looked at."""
    requested_sizes, stages = run.resolved.micro_batches, run.scheduler.occupied()

    @cache
    def estimate() -> MemoryEstimate:
        train, rates = run.config.train, [run.scheduler.stages[stage - 1].rates for stage in stages]
        seq_lens = [run.batch.of_stage(stage).seq_len for stage in stages]
        return estimate_memory(
            run.model.config,
            run.spec,
            run.generator.options,
            rates,
            seq_lens,
            run.precision,
            train.activation_checkpointing,
            run.objective.lm_loss,
            train.attention,
        )

    @cache
    def room() -> int:
        gradients = sum(parameter.nbytes for parameter in run.model.parameters())
        snapshot = 3 * gradients if run.config.train.async_checkpoints else 0
        share = int(CPU_SHARE * available_bytes() / run.rank.local_world_size)
        return share - gradients - snapshot - missing_moments(run.optimizer)

    def fits(stage: int, size: int) -> bool:
        return requested_sizes[stage - 1] is not None or estimate().activations[stages.index(stage)].of(size) <= room()

    return fits


def _stages_to_come(run: Run) -> list[int]:
    """The stages that a resumed run has not left behind, and the last one in any case: evaluation needs its size."""
    stages = run.scheduler.occupied()
    return [n for n in stages if run.scheduler.stages[n - 1].until_step > run.state.step] or stages[-1:]


def _covers(run: Run) -> Covers:
    """Stages grow, but those of n_stage and sequences need not; plain dropout keeps its mask for the backward pass."""
    scheduler, options = run.scheduler, run.generator.options
    sizes = scheduled_sizes(run.spec, scheduler, options)

    def covers(later: int, earlier: int) -> bool:
        large, small = sizes[later], sizes[earlier]
        longer = run.batch.of_stage(earlier).seq_len > run.batch.of_stage(later).seq_len
        drops = scheduler.stages[earlier - 1].rates.p_d < 1.0
        return not drops and not longer and small.fits_into(large)

    return covers


def _largest(stage: int, sequences: int, known: int, fits: Fits) -> int:
    divisors = [size for size in range(1, sequences + 1) if sequences % size == 0]
    tried = bisect_right(divisors, known)  # these fit
    count = bisect_left(divisors, True, lo=tried, key=lambda size: not fits(stage, size))
    if count == 0:
        raise _too_large(stage, 1)
    return divisors[count - 1]


def _too_large(stage: int, size: int) -> OutOfMemory:
    if size == 1:
        return OutOfMemory(
            f"train.micro_batch: out of memory; stage {stage} does not fit with 1 sequence per forward pass; take a "
            "smaller train.seq_len or model, or train.activation_checkpointing=true"
        )
    return OutOfMemory(
        f"train.micro_batch: out of memory; {size} sequences per forward pass do not fit in stage {stage}; "
        "use a smaller one, or train.micro_batch=auto, which finds the largest that fits"
    )


def _survives(run: Run, stage: int, size: int, compiled: bool, reserve: float) -> bool:
    """Whether the passes of a step of `stage` run through in micro-batches of `size` sequences."""
    run.handle.activate(run.generator.largest(run.scheduler.stages[stage - 1].rates))
    try:
        with nullcontext() if compiled else torch.compiler.set_stance("force_eager"):
            return _runs_through(run, stage, size, reserve)
    finally:
        _free(run)


def _runs_through(run: Run, stage: int, size: int, reserve: float) -> bool:
    """A function of its own: when it has returned, nothing holds what its passes had allocated."""
    batch, p_t = run.batch.of_stage(stage), run.scheduler.stages[stage - 1].rates.p_t
    passes = (
        2 if size * run.rank.world_size < batch.sequences else 1
    )  # the second one has all gradients beside its activations
    device = run.accelerator.device
    try:
        with _occupied(device, missing_moments(run.optimizer) + int(reserve * _total_bytes(device))):
            tokens = torch.zeros(size, batch.seq_len, dtype=torch.int64, device=device)
            drawn = first_positions(size, batch.seq_len, p_t, device)
            for _ in range(passes):
                forward_backward(run, tokens, target_count(tokens, drawn), drawn)
    except torch.OutOfMemoryError:
        return False
    return True


@contextmanager
def _occupied(device: torch.device, count: int) -> Iterator[None]:
    """So many bytes of the device's memory are taken until the end of the block."""
    taken = torch.empty(count, dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del taken


def _free(run: Run) -> None:
    """As before the probe: no gradients, the complete model, the memory given back and its peak forgotten."""
    run.handle.activate_full()
    run.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    device = run.accelerator.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _total_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
