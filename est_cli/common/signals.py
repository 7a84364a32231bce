"""The signals that ask a command to stop, and the one place that installs handlers. Standard library only."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from est_cli.common.waiting import tell_waiting

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler, the keyboard, a closed terminal, a cluster that warns of a time limit. Each would end the process."""

Handler = Callable[[int, FrameType | None], None]


def handled_signals() -> tuple[signal.Signals, ...]:
    """Those of STOPPING that whoever started this process does not have it ignore, as nohup does with SIGHUP.

    Never without SIGTERM and SIGINT: a shell has every job in the background ignore the latter.
    """
    always = (signal.SIGTERM, signal.SIGINT)
    return tuple(number for number in STOPPING if number in always or signal.getsignal(number) is not signal.SIG_IGN)


def is_preemption(signum: int, environ: Mapping[str, str]) -> bool:
    """Whether a cluster takes the machine away, and the run should go on elsewhere: SIGUSR1, SIGUSR2 or SIGTERM.

    W&B's agent, too, ends with SIGTERM what shall not go on; so under one it counts only where Slurm may have sent it.
    """
    by_agent = "WANDB_SWEEP_ID" in environ and "SLURM_JOB_ID" not in environ
    return signum in (signal.SIGUSR1, signal.SIGUSR2) or (signum == signal.SIGTERM and not by_agent)


@contextmanager
def handling(handler: Handler, numbers: Sequence[signal.Signals] | None = None) -> Iterator[Callable[[], None]]:
    """Have `handler` called for these signals (None: handled_signals()) until the block ends.

    Yields what has them handled as before already earlier.
    """
    before = {number: signal.getsignal(number) for number in (handled_signals() if numbers is None else numbers)}

    def restore() -> None:
        for number, earlier in before.items():
            signal.signal(number, earlier)

    try:
        for number in before:
            signal.signal(number, handler)
        yield restore
    finally:
        restore()


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Have the signals that would be handled wait until the block has ended; for the import of large libraries.

    What a handler raises in the middle of an import can be lost there (numpy drops it) and leave modules by halves.
    """
    came: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        tell_waiting("stopping")

    numbers = [number for number in STOPPING if callable(signal.getsignal(number))]
    try:
        with handling(note, numbers):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])


@dataclass
class StopRequest:
    """`signum` is the signal that asked the run to stop, or None."""

    signum: int | None = None


@contextmanager
def stop_on_signals(echo_s: float = 0.0) -> Iterator[StopRequest]:
    """Note the first signal, which asks to stop at the next step boundary; the second stops at once.

    What follows the first within `echo_s` seconds is taken for the same one: a cluster that signals every process of a
    job reaches a worker twice, by itself and through its launcher.
    """
    request, first = StopRequest(), time.monotonic()

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signum is None:
            request.signum, first = signum, time.monotonic()
        elif time.monotonic() - first >= echo_s:
            restore()
            signal.raise_signal(signum)

    with handling(note) as restore:
        yield request
