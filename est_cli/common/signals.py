"""The signals that ask a command to stop. Standard library only."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler, the keyboard, a closed terminal, a cluster that warns of a time limit. Each would end the process."""


def handled_signals() -> tuple[signal.Signals, ...]:
    """Those of STOPPING that whoever started this process does not have it ignore, as nohup does with SIGHUP.

    Never without SIGTERM and SIGINT: a shell has every job in the background ignore the latter.
    """
    always = (signal.SIGTERM, signal.SIGINT)
    return tuple(number for number in STOPPING if number in always or signal.getsignal(number) is not signal.SIG_IGN)


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Have the signals that would be handled wait until the block has ended; for the import of large libraries.

    What a handler raises in the middle of an import can be lost there (numpy drops it) and leave modules by halves.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda signum, frame: came.append(signum))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
