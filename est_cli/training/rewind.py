"""A run goes back to its last checkpoint, in the same process, and passes over the samples since then.

Where it goes back to, and that it does, follows from the checkpoint and the settings alone. So there is nothing to
write down at once: a run that is killed while it goes back, or before its next checkpoint, comes to the same spike and
goes back again; from its next checkpoint on that holds what was passed over.
"""

from __future__ import annotations

from est_cli.common.errors import NumericsError
from est_cli.config import OnSpike
from est_cli.storage.store import step_folders
from est_cli.tracking import Ending, In
from est_cli.training.folder import restored_state
from est_cli.training.optim import LossScale
from est_cli.training.run import Run, RunState, ledger_at
from est_cli.training.spike_guard import Limits, described, told_of

MOST_TO_ONE = 2
"""How often a run goes back to one checkpoint; then the samples are not to blame."""

KEPT = ("num_processes", "time_s", "flops_blocks", "flops_total", "micro_batches", "wandb_run_id", "tracker_names")
"""What going back changes nothing of: the work was done, and the processes are the same."""


def place_before(run: Run, step: int) -> int | None:
    """The step of the checkpoint that a spike after `step` steps would send the run back to; None if there is none.

    One that was saved because the run was stopped is none: a run that was never stopped would not have it. That which
    `fork` names is one, since the run has it however it went.
    """
    if run.config.train.on_spike is not OnSpike.rewind:
        return None
    fork = run.config.fork
    begun = None if fork is None else int(fork.rpartition("@")[2])
    saved = (found for found, _ in step_folders(run.dir.checkpoints) if found <= step)
    return max((found for found in saved if found == begun or run.resolved.saves_at(found)), default=None)


def go_back(run: Run, step: int, loss: float, grad_norm: float, limits: Limits) -> bool:
    """Put the run where it stood at its last checkpoint, since `step` (0-based) is a spike; False if it has none.

    All processes call it, with nothing being written. Raises NumericsError where it has been there MOST_TO_ONE times,
    and whatever loading a checkpoint does.
    """
    spike = told_of(step, loss, grad_norm, limits)
    place = run.group.share(place_before(run, step) if run.rank.first else None)
    if place is None:
        run.progress.line(f"warning: {spike}; there is no checkpoint to go back to yet, so the run goes on")
        return False
    _refuse_again(run, spike, place)
    end = run.reading.first_sample(step + 1)
    parts = run.model, run.optimizer, run.corpus, run.group
    state = restored_state(run.dir, run.scheduler.max_steps, *parts, until=place)
    assert state is not None, "the checkpoint that was just found"
    times = 1 + _times(run, state.step)
    _take_over(run, state)
    first = run.reading.first_sample(state.step)
    state.passed.append([state.step, end - first, times])
    told = {
        "step": state.step + 1,
        "from_step": step + 1,
        "times": times,
        "first_sample": first,
        "samples": end - first,
    }
    run.tracker.event(In.rewind, told | described(loss, grad_norm, limits))
    passed = f"samples {first} to {end - 1} are passed over"
    run.progress.line(f"warning: {spike}; back to step {state.step}, and {passed}")
    return True


def _refuse_again(run: Run, spike: str, place: int) -> None:
    if _times(run, place) >= MOST_TO_ONE:
        raise NumericsError(
            f"{run.dir.root}: {spike}, after the run has gone back to step {place} {MOST_TO_ONE} times; lower optim.lr "
            f"or raise train.spike_threshold: fork={run.dir.root}@{place} with one of these begins another run there"
        )


def _times(run: Run, place: int) -> int:
    """How often the run has gone back there."""
    return next((times for since, _, times in run.reading.passed if since == place), 0)


def _take_over(run: Run, state: RunState) -> None:
    """Go on from a checkpoint of this state, whose weights and moments are loaded: as build() does when it resumes."""
    before = run.state
    state.flops_passed_over += before.flops_total - state.flops_total
    for name in KEPT:
        setattr(state, name, getattr(before, name))
    run.reading.passed[:] = state.passed
    state.passed = run.reading.passed
    run.state = state
    if run.loss_scale is not None:
        run.loss_scale = LossScale.at(state.loss_scale, state.good_steps, run.accelerator.device)
    apart = run.objective.lm_loss.end_of_text is not None
    run.ledger = ledger_at(state, run.spec, run.batch, apart)
    run.health.recount(state.step, run.scheduler, run.generator, run.resolved.splits(run.rank.world_size))
    run.progress.back_to(state.step)
    run.tracker.close(Ending())
    run.tracker = run.tracker_at(state)
