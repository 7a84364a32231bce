"""SIGTERM, SIGINT and their like: the first asks to stop at the next step boundary, the second stops at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from est_cli.common.signals import handled_signals


@dataclass
class StopRequest:
    """`signum` is the signal that asked the run to stop, or None."""

    signum: int | None = None


@contextmanager
def stop_on_signals(echo_s: float = 0.0) -> Iterator[StopRequest]:
    """Note the first signal instead of dying from it, and restore the handlers at the end or after it.

    What follows it within `echo_s` seconds is taken for the same one: a cluster that signals every process of a job
    reaches a worker twice, by itself and through its launcher.
    """
    request, first = StopRequest(), time.monotonic()
    previous = {number: signal.getsignal(number) for number in handled_signals()}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signum is None:
            request.signum, first = signum, time.monotonic()
        elif time.monotonic() - first >= echo_s:
            restore()
            signal.raise_signal(signum)

    for number in previous:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
