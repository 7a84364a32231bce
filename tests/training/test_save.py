"""Checkpoints written while training goes on: whole, in order, of one moment, and every failure is told."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from est_cli.common.errors import CheckpointError, NumericsError, StoppedBySignal, StorageError
from est_cli.storage import content, disk, store
from est_cli.storage.run_dir import RunDir
from est_cli.training.save import MAX_FAILED_SAVES, Saver
from tests.lab.checkpoint_models import assert_same, everything
from tests.lab.folders import killed_at, leftovers, names
from tests.lab.saving import held, refuse, save_and_poll, settled, small_run, spoil, steps, stored

both = pytest.mark.parametrize("asynchronous", [False, True])


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return small_run(tmp_path)


def test_the_file_holds_the_values_from_before(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Saver(run, asynchronous=True) as saver:
        for step in (10, 30):  # the second one is taken into the memory of the first
            run.state.step = step
            before = everything(run.model, run.optimizer)
            loss = run.state.last_loss
            with held(monkeypatch) as go:
                saver.save()
                spoil(run)
                saver.poll()
                assert saver.saved_step != step and step not in steps(run)
                go.set()
                saver.wait()
            assert saver.saved_step == step
            assert_same(stored(run, step), before)
            state = (run.dir.checkpoints / f"step-{step:06d}" / content.STATE).read_text()
            assert f'"last_loss": {loss}' in state and f'"step": {step}' in state
    assert run.lines == []


def test_two_quick_saves_are_written_one_after_the_other(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    monkeypatch.setattr(disk, "fault_point", passed.append)
    expected = {}
    with Saver(run, asynchronous=True) as saver:
        for step in (10, 11, 12):
            run.state.step = step
            expected[step] = everything(run.model, run.optimizer)
            saver.save()
            spoil(run)
    assert steps(run) == [11, 12], "the first one is deleted after the third is there"
    for step in (11, 12):
        assert_same(stored(run, step), expected[step])
    renamed = [name for name in passed if name.startswith(("mkdir .tmp-", "rename .tmp-"))]
    assert [name.rpartition("-")[0] for name in renamed] == [
        f"{what} .tmp-step-0000{step}" for step in (10, 11, 12) for what in ("mkdir", "rename")
    ]


@both
def test_retention(run: Any, asynchronous: bool) -> None:
    run.config.train.keep_every = 25
    with Saver(run, asynchronous) as saver:
        for run.state.step in (10, 20, 25, 30, 40, 50, 55, 60):
            saver.save()
    assert steps(run) == [20, 25, 40, 50, 55, 60]
    assert not leftovers(names(run.dir.checkpoints))


def test_without_a_thread_of_its_own_it_is_there_on_return(run: Any) -> None:
    with Saver(run, asynchronous=False) as saver:
        saver.save()
        assert saver.saved_step == 10
        assert_same(stored(run, 10), everything(run.model, run.optimizer))


@both
def test_a_refused_save_is_a_warning_while_an_older_checkpoint_is_there(
    run: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Saver(run, asynchronous) as saver:
        saver.save()
        saver.wait()
        refuse(monkeypatch, "write MANIFEST", times=1)
        run.state.step = 11
        saver.save()
        settled(saver)
        assert len(run.lines) == int(not asynchronous), "it is told by the training thread"
        saver.poll()
        (line,) = run.lines
        assert line.startswith("warning: no checkpoint at step 11: ") and "(ENOSPC)" in line
        assert saver.saved_step == 10 and steps(run) == [10] and not leftovers(names(run.dir.checkpoints))
        run.state.step = 12
        saver.save()
        saver.wait()
        assert saver.saved_step == 12 and len(run.lines) == 1


@both
def test_too_many_refused_in_a_row_stop_the_run(run: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with Saver(run, asynchronous) as saver:
        saver.save()
        saver.wait()
        for refused in (MAX_FAILED_SAVES - 1, MAX_FAILED_SAVES):  # a save that works between them starts the count anew
            refuse(monkeypatch, "fill", times=refused)
            for _ in range(MAX_FAILED_SAVES - 1):
                run.state.step += 1
                saver.save()
                saver.wait()
            run.state.step += 1
            if refused < MAX_FAILED_SAVES:
                saver.save()
                saver.wait()
                assert saver.saved_step == run.state.step
        with pytest.raises(StorageError, match="ENOSPC"):
            save_and_poll(saver)
    assert len(run.lines) == 2 * (MAX_FAILED_SAVES - 1)


@both
def test_the_first_save_must_work(run: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "mkdir checkpoints", times=1)
    with Saver(run, asynchronous) as saver, pytest.raises(StorageError, match="ENOSPC"):
        save_and_poll(saver)
    assert run.lines == []


@both
def test_old_checkpoints_that_cannot_be_removed(run: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "rename step-", times=1)
    with Saver(run, asynchronous) as saver:
        for run.state.step in (10, 11, 12):
            saver.save()
        saver.wait()
    (line,) = run.lines
    assert line.startswith("warning: old checkpoints not removed at step 12: ")
    assert saver.saved_step == 12 and steps(run) == [10, 11, 12]


@both
def test_values_that_are_not_finite_stop_the_run(run: Any, asynchronous: bool) -> None:
    with Saver(run, asynchronous) as saver:
        saver.save()
        saver.wait()
        run.state.step = 11
        with torch.no_grad():
            run.model.lm_head.weight[3, 3] = float("nan")
        with pytest.raises(NumericsError, match="not finite"):
            save_and_poll(saver)
        saver.wait()
    assert steps(run) == [10] and run.lines == []


def test_any_other_failure_is_raised_in_the_training_thread(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise CheckpointError("x: exists already")

    monkeypatch.setattr(store, "write_folder", broken)
    with Saver(run, asynchronous=True) as saver:
        saver.save()
        with pytest.raises(CheckpointError, match="exists already"):
            saver.save()  # waits for the one before it


@both
def test_a_record_that_cannot_be_synced_is_a_refused_save(
    run: Any, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise StorageError("metrics.jsonl: cannot be written")

    with Saver(run, asynchronous) as saver:
        saver.save()
        saver.wait()
        monkeypatch.setattr(run.tracker.metrics, "sync", refused)
        run.state.step = 11
        saver.save()
        saver.wait()
    assert run.lines == ["warning: no checkpoint at step 11: metrics.jsonl: cannot be written"]
    assert steps(run) == [10]


def leave_while_writing(run: Any, error: BaseException) -> None:
    with Saver(run, asynchronous=True) as saver:
        saver.save()
        raise error


def test_the_block_never_ends_before_the_write(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(monkeypatch) as go:
        threading.Timer(0.2, go.set).start()
        with pytest.raises(NumericsError):
            leave_while_writing(run, NumericsError("lost"))
    assert store.is_intact(run.dir.checkpoints / "step-000010")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoppedBySignal(15, "again")], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_does_not_wait_for_a_write(
    run: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with held(monkeypatch) as go:
        with pytest.raises(type(error)):
            leave_while_writing(run, error)
        assert not go.is_set() and "checkpoint" in [thread.name for thread in threading.enumerate()]


def test_what_failed_is_told_when_the_run_ends_of_another_cause(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "mkdir checkpoints", times=1)

    def train_into_a_failure() -> None:
        with Saver(run, asynchronous=True) as saver:
            saver.save()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_into_a_failure()
    assert len(run.lines) == 1 and "no checkpoint at step 10" in run.lines[0] and "ENOSPC" in run.lines[0]


def test_waiting_can_be_interrupted_by_a_signal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with held(monkeypatch) as go, Saver(run, asynchronous=True) as saver:
            saver.save()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(InterruptedError):
                saver.wait()
            assert steps(run) == []
            go.set()
            saver.wait()
            assert saver.saved_step == 10
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.slow
def test_kill_at_every_point_of_a_write_leaves_the_old_or_the_new(run: Any, tmp_path: Path) -> None:
    at_step = {10: everything(run.model, run.optimizer)}
    for step in (11, 12):
        at_step[step] = {name: value + 1.0 for name, value in at_step[step - 1].items()}
    found, killed = [], True
    while killed:
        run.dir = RunDir(tmp_path / str(len(found)))
        run.dir.root.mkdir()
        killed = killed_at(len(found) + 1, lambda: save_three_and_train_on(run))
        newest = store.newest_valid(run.dir.checkpoints, pytest.fail)
        found.append(None if newest is None else int(newest[0].name.removeprefix("step-")))
        if found[-1] is not None:
            assert_same(stored(run, found[-1]), at_step[found[-1]])
        store.clean_leftovers(run.dir.checkpoints)
        assert not run.dir.checkpoints.exists() or not leftovers(names(run.dir.checkpoints))
    numbers = [step or 0 for step in found]
    assert numbers == sorted(numbers) and set(numbers) == {0, 10, 11, 12}, "once the new one is there it stays"
    assert steps(run) == [11, 12]


def save_three_and_train_on(run: Any) -> None:
    with Saver(run, asynchronous=True) as saver:
        for run.state.step in (10, 11, 12):
            saver.save()
            spoil(run)
