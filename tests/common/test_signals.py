"""Signals that wait while libraries are imported."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from est_cli.common.signals import STOPPING, is_preemption, signals_deferred


@contextmanager
def handled(number: signal.Signals) -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise InterruptedError(signum)

    previous = signal.signal(number, stop)
    try:
        yield
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, previous)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_waits_for_the_end_of_the_block(number: signal.Signals) -> None:
    ended = False

    def work() -> None:
        nonlocal ended
        with signals_deferred():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            ended = True

    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True).start()  # libraries have threads, which may get the signal
    with handled(number), pytest.raises(InterruptedError, match=str(int(number))):
        work()
    done.set()
    assert ended


def test_without_a_signal_nothing_is_raised() -> None:
    with handled(signal.SIGTERM), signals_deferred():
        pass


def test_what_ends_a_process_or_is_ignored_is_left_alone() -> None:
    """As a worker dies of SIGTERM at once while it imports, and what was started by nohup ignores SIGHUP."""
    term, hup = signal.signal(signal.SIGTERM, signal.SIG_DFL), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_deferred():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGHUP, hup)


@pytest.mark.parametrize(
    ("signum", "environ", "expected"),
    [
        (signal.SIGUSR1, {}, True),
        (signal.SIGUSR2, {"WANDB_SWEEP_ID": "s"}, True),
        (signal.SIGTERM, {}, True),
        (signal.SIGTERM, {"WANDB_SWEEP_ID": "s"}, False),
        (signal.SIGTERM, {"WANDB_SWEEP_ID": "s", "SLURM_JOB_ID": "1"}, True),
        (signal.SIGINT, {}, False),
        (signal.SIGHUP, {}, False),
    ],
)
def test_which_signals_are_a_preemption(signum: int, environ: dict[str, str], expected: bool) -> None:
    assert is_preemption(signum, environ) is expected
