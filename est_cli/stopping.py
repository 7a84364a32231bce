"""The signals that ask a command to stop. Standard library only."""

from __future__ import annotations

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler, the keyboard, a closed terminal, a cluster that warns of a time limit. Each would end the process."""


def heeded() -> tuple[signal.Signals, ...]:
    """Those of STOPPING that whoever started this process does not have it ignore, as nohup does with SIGHUP.

    Never without SIGTERM and SIGINT: a shell has every job in the background ignore the latter.
    """
    always = (signal.SIGTERM, signal.SIGINT)
    return tuple(number for number in STOPPING if number in always or signal.getsignal(number) is not signal.SIG_IGN)
