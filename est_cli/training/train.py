"""The training loop: steps, and what is due after them (logging, validation, samples, checkpoints, stopping)."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from est_cli.common.errors import StoppedBySignal
from est_cli.common.rank import rank_of_environment
from est_cli.common.signals import StopRequest, stop_on_signals
from est_cli.config import OnSpike
from est_cli.distributed.device import peak_memory_gb
from est_cli.distributed.hardware import runs_ahead
from est_cli.est.flops import flops_of, training_flops
from est_cli.est.sizes import full_sizes
from est_cli.tracking import read_metrics
from est_cli.training.build import build
from est_cli.training.describe import describe
from est_cli.training.evaluation import evaluate, show_sample
from est_cli.training.finish import End, draw_missing, finish
from est_cli.training.profile import StepProfile
from est_cli.training.rewind import go_back
from est_cli.training.run import Run
from est_cli.training.save import Saver
from est_cli.training.spike_guard import Limits, remember
from est_cli.training.start import Start
from est_cli.training.step import StepNumbers, StepResult, train_step
from est_cli.training.step_record import Window, record_transition, step_record
from est_cli.training.watch import collecting, compare_replicas, guard, watch_graphs

AWAIT_S = 0.2
"""Between two looks for text that is not there yet."""
ECHO_S = 1.0
"""Of several processes: how long after the first signal another one may be its echo."""


@dataclass
class _Loop:
    """What lives only as long as this process trains."""

    run: Run
    stop: StopRequest
    saver: Saver
    profile: StepProfile
    began: float = field(default_factory=time.monotonic)
    time_before: float = 0.0
    window: Window = field(default_factory=Window)
    unread: deque[StepResult] = field(default_factory=deque)
    """Steps that the device has been given and whose numbers nobody has read: those after `run.state.step`."""
    mark: float = 0.0
    """When the oldest unread step began, in time.perf_counter() seconds."""
    agreed_stop: int | None = None
    """The signal that asked any of several processes to stop."""
    loss: float = 0.0
    """Of the newest step that was read."""
    end: End | None = None
    """Known after the last step."""

    @property
    def next_step(self) -> int:
        """The step (0-based) that is launched next; less than before where the run has gone back."""
        return self.run.state.step + len(self.unread)

    @property
    def stop_signal(self) -> int | None:
        """The signal that asks the run to stop: this process's own, or what several have agreed on."""
        return self.stop.signum if self.run.rank.world_size == 1 else self.agreed_stop


def run(start: Start) -> None:
    """Put the run together and train it; of a finished one only what is missing is drawn. Any EstError may come out."""
    if start.finished:
        if rank_of_environment().first:
            draw_missing(start)
        return
    with build(start) as running:
        if running.rank.first and start.announce is not None:
            start.announce(running.dir.root)
        train(running)


def train(run: Run) -> dict[str, Any]:
    """Train to the last step and finish the run; returns what summary.json holds.

    Raises StoppedBySignal after saving a checkpoint, NumericsError, StorageError.
    """
    train, device = run.config.train, run.accelerator.device
    asynchronous = runs_ahead(device) if train.async_checkpoints is None else train.async_checkpoints
    profile = _profile(run)
    echo_s = 0.0 if run.rank.world_size == 1 else ECHO_S
    with stop_on_signals(echo_s) as stop, Saver(run, asynchronous) as saver, profile, collecting(run) as collect:
        for line in describe(run) if run.rank.first else ():
            run.progress.line(line)
        loop = _Loop(run, stop, saver, profile, time_before=run.state.time_s)
        if run.state.step:
            run.progress.line(f"resumed   after step {run.state.step}, in {run.precision.value}")
        if run.state.step < run.scheduler.max_steps:
            _await_text(loop, run.state.step)
            first = run.feed.again(run.state.step).digest
            run.group.require_same(first, f"drew another subnetwork in step {run.state.step + 1} than")
        splits = run.resolved.splits(run.rank.world_size)
        run.health.recount(run.state.step, run.scheduler, run.generator, splits)
        late = 1 if runs_ahead(device) else 0
        while (step := loop.next_step) < run.scheduler.max_steps:
            _await_text(loop, step)
            if loop.next_step < step:
                continue
            _launch(loop, step)
            _read(loop, late)
            saver.poll()
            collect(step)
            if loop.next_step > step and _is_due(loop, step + 1):
                _read(loop, 0)
                if loop.next_step > step:
                    _what_is_due(loop, step + 1)
        saver.wait()
        return finish(run, loop.end or _end_again(run))


def _profile(run: Run) -> StepProfile:
    train, steps = run.config.train, range(0)
    if train.profile_step is not None and run.rank.first:
        steps = range(train.profile_step, min(train.profile_step + train.profile_steps, run.scheduler.max_steps + 1))
    if steps and steps.stop <= run.state.step + 1:
        run.progress.line(f"profile   none: steps {steps.start} to {steps.stop - 1} are done already")
    return StepProfile(run.dir.root / "profile", steps, run.accelerator.device, run.progress.line)


def _await_text(loop: _Loop, step: int) -> None:
    """Return when the text of `step` is tokenised; the time is none of a step's.

    Where none will come, or a signal stops the run, the error comes when a checkpoint is saved. Returns at once where a
    step before has sent the run back.
    """
    run, supply = loop.run, loop.run.supply
    if supply is None or supply.has(step):
        return
    _read(loop, 0)
    if loop.next_step < step:
        return
    began, look = time.monotonic(), supply.look(loop.stop.signum)
    if supply.has(step):
        return
    run.progress.line(f"step {step + 1} waits for its text to be tokenised")
    while not supply.has(step):
        if look.signum is not None:
            raise _stopped(loop, look.signum, saving=False)
        if look.failure is not None:
            _checkpoint_here(loop, saving=False)
            raise look.failure
        time.sleep(AWAIT_S)
        look = supply.look(loop.stop.signum)
    seconds = time.monotonic() - began
    loop.window.waited_s += seconds
    run.progress.line(f"step {step + 1} has waited for {seconds:.1f} s; more dataset.num_workers tokenise faster")


def _launch(loop: _Loop, step: int) -> None:
    if not loop.unread:
        loop.mark = time.perf_counter()
    with loop.profile.step(step + 1):
        loop.unread.append(train_step(loop.run, step, loop.stop))


def _read(loop: _Loop, leave: int) -> None:
    """Account for all but the `leave` newest steps: one late, so that the device never waits to be read."""
    while len(loop.unread) > leave:
        step, result = loop.run.state.step, loop.unread[0]
        numbers = result.read()
        now = time.perf_counter()
        loop.unread.popleft()
        seconds, loop.mark = now - loop.mark, now
        _account(loop, step, result, numbers, seconds)


def _account(loop: _Loop, step: int, result: StepResult, numbers: StepNumbers, seconds: float) -> None:
    """Step `step` is done: the ledger, the records, and whether training can go on."""
    run, state = loop.run, loop.run.state
    batch, pairs = run.batch.at(step), None if result.pairs is None else sum(result.pairs)
    used = flops_of(run.spec, result.ran, batch.seq_len, result.pairs)
    run.ledger.add(used, training_flops(run.spec, full_sizes(run.spec), batch.sequences, batch.seq_len, pairs))
    state.attention_pairs += pairs or 0
    state.flops_blocks, state.flops_total = run.ledger.used.blocks, run.ledger.used.total
    loop.window.add(seconds, used.total, batch.tokens)
    loop.loss = numbers.loss
    loss_before, state.step = state.last_loss, step + 1
    if numbers.finite:
        remember(run, step, numbers.loss, numbers.grad_norm)
    _record_step(loop, step, result, numbers, seconds)
    if step in run.scheduler.transitions():
        record_transition(run, step, loss_before, numbers.loss)
    state.last_loss = numbers.loss if numbers.finite else loss_before
    state.time_s = loop.time_before + time.monotonic() - loop.began
    guard(run, step, numbers, result.limits)
    if run.compiled:
        watch_graphs(run)
    if numbers.agreed is not None:
        loop.agreed_stop = loop.agreed_stop or numbers.agreed.stop
        compare_replicas(run, step, numbers.agreed)
    limits = result.limits
    if run.config.train.on_spike is OnSpike.rewind and limits and limits.exceeded(numbers.loss, numbers.grad_norm):
        _go_back(loop, step, numbers, limits)


def _go_back(loop: _Loop, step: int, numbers: StepNumbers, limits: Limits) -> None:
    """Step `step` is a spike: where the run has a checkpoint it stands there again, and nothing is under way."""
    loop.saver.wait()
    if go_back(loop.run, step, numbers.loss, numbers.grad_norm, limits):
        loop.unread.clear()
        loop.window = Window()


def _record_step(loop: _Loop, step: int, result: StepResult, numbers: StepNumbers, seconds: float) -> None:
    run, scheduler = loop.run, loop.run.scheduler
    stage, done = scheduler.stage_at(step), step + 1
    saved, saved_end = run.ledger.saved_pct("blocks"), run.planned.saved_pct("blocks")
    speed, memory = loop.window.tokens_per_s, peak_memory_gb(run.accelerator.device)
    run.progress.update(done, stage, seconds, numbers.loss, saved, saved_end, speed, memory)
    every = run.config.train.log_every
    last_of_stage = done in (*scheduler.transitions(), scheduler.max_steps)
    if every and (done % every == 0 or last_of_stage or step in scheduler.transitions()):
        run.tracker.train(step_record(run, loop.window, step, result, numbers))
        loop.window = Window()
    if result.covered is not None:
        about = {"step": done, "tokens": run.batch.tokens_before(done), "stage": stage}
        run.tracker.layers(about | run.health.record(numbers.layers, result.covered))


def _is_due(loop: _Loop, done: int) -> bool:
    """Whether something follows step number `done` that needs its numbers and weights."""
    run, train = loop.run, loop.run.config.train
    intervals = (train.eval_every, train.eval_tasks_every, train.sample_every, train.checkpoint_every)
    at_steps = done == run.scheduler.max_steps or done in run.resolved.lasting
    return at_steps or loop.stop_signal is not None or any(_every(done, interval) for interval in intervals)


def _what_is_due(loop: _Loop, done: int) -> None:
    """After step number `done`: in this order, so that a checkpoint's record holds its own evaluation."""
    run, train = loop.run, loop.run.config.train
    last = done == run.scheduler.max_steps
    if last or _every(done, train.eval_every) or (train.eval_every and done in run.scheduler.milestones()):
        val_loss = evaluate(run)
        loop.end = End.of(run, loop.loss, val_loss) if last else None
    if run.tasks is not None and (last or _every(done, train.eval_tasks_every)):
        run.tasks.evaluate(run)
    if train.sample_every and (last or _every(done, train.sample_every)):
        show_sample(run)
    saving = last or done in run.resolved.lasting or _every(done, train.checkpoint_every)
    if saving and not (loop.end is not None and loop.end.not_finite):  # of a lost run the sound checkpoints stay
        _save(loop)
    if loop.stop_signal is not None and not last:
        raise _stopped(loop, loop.stop_signal, saving)


def _stopped(loop: _Loop, signum: int, saving: bool) -> StoppedBySignal:
    """What a run ends with that a signal stops; `saving`: its checkpoint is under way already."""
    run, done = loop.run, loop.run.state.step
    saved = "saved" if _checkpoint_here(loop, saving) else "no checkpoint could be saved" if done else "stopped"
    return StoppedBySignal(signum, f"{run.dir.root}: {saved} at step {done}; resume={run.dir.root} continues")


def _checkpoint_here(loop: _Loop, saving: bool) -> bool:
    """Whether the present step has a checkpoint, when it is written; the first step has none before it."""
    run, saver, done = loop.run, loop.saver, loop.run.state.step
    if done and not saving:
        _save(loop)
    saver.wait()
    run.group.wait_for_save()  # a launcher that sees one process end may kill the one that saves
    return saver.saved_step == done


def _save(loop: _Loop) -> None:
    scale, state = loop.run.loss_scale, loop.run.state
    if scale is not None:
        state.loss_scale, state.good_steps = scale.factor.item(), int(scale.good_steps.item())
    loop.saver.save()


def _end_again(run: Run) -> End:
    """Of a run that had done its last step and was killed before its summary: as recorded, or evaluated once more."""
    found: dict[str, Any] | None = None
    if run.rank.first and run.dir.metrics.exists():
        records = (record for record in read_metrics(run.dir.metrics) if "val_loss" in record)
        found = next((record for record in records if record["step"] == run.state.step), None)
    found = run.group.share(found)
    counted = dict(run.state.records)  # the checkpoint is younger than the record
    val_loss = evaluate(run) if found is None else found["val_loss"]
    run.state.records.update(counted)
    return End.of(run, 0.0, math.nan if val_loss is None else val_loss)


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
