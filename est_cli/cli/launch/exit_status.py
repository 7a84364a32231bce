"""How a run of several processes ended, from how each of them did: one line and one exit code."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from est_cli.common.errors import EstError, PeerLostError, StoppedBySignal
from est_cli.common.signals import STOPPING

_BUG, _LOST = 1, PeerLostError.exit_code
_OWN = (2, 3, 4, 5, 6, 8, 9)
_SAVED = tuple(128 + signum for signum in STOPPING)


@dataclass(frozen=True)
class WorkerStatus:
    """How one worker ended."""

    rank: int
    code: int | None
    """Its exit code, minus the signal that killed it, or None: it was still running when it was given up."""
    message: str | None = None
    """What it said, in one line."""
    state: str = "hangs"
    """What a worker that was given up was doing."""

    @property
    def killed_by(self) -> int:
        """The signal, or 0."""
        return max(0, -self.code) if self.code is not None else 0

    @property
    def failed(self) -> bool:
        """Whether the others cannot go on. A worker that stopped after a save leaves the others to finish theirs."""
        return self.code not in (None, 0, *_SAVED)

    def describe(self) -> str:
        """Its message; the first process needs no name."""
        return f"rank {self.rank}: {self.message}" if self.rank else str(self.message)


def overall_error(ends: Sequence[WorkerStatus], signum: int | None, continues: str) -> BaseException | None:
    """The exception to end with, or None if all is well.

    `ends` by rank; `signum`: the first signal that the launcher passed on (as SIGTERM), or None; `continues`: how
    to go on after a death. Errors that a worker names come before deaths, and deaths before bugs and lost peers, which
    are what the others see of a death.
    """
    own = [end for end in ends if end.code in _OWN]
    if own:
        return _error(own[0].code, own[0].describe())
    explained = (0, signal.SIGABRT, signal.SIGTERM) if signum else (0, signal.SIGABRT)
    killed = [end for end in ends if end.killed_by not in explained]
    if killed:
        return PeerLostError(f"rank {killed[0].rank}: killed by {_name(killed[0].killed_by)}; {continues}")
    if any(end.killed_by == signal.SIGTERM for end in ends):
        return _stopped(ends, signum)
    bugs = [end for end in ends if end.code is not None and 0 < end.code < 128 and end.code != _LOST]
    if bugs:
        return _error(_BUG, f"rank {bugs[0].rank}: ended by a bug; its traceback is above")
    if any(end.code is not None and end.code > 128 for end in ends):
        return _stopped(ends, signum)
    if any(end.code == _LOST or end.killed_by == signal.SIGABRT for end in ends):
        return PeerLostError(_lost(ends, continues))
    return _stopped(ends, signum) if any(end.code is None for end in ends) else None


def _error(code: int | None, message: str) -> EstError:
    error = EstError(message)
    error.exit_code = code or _BUG
    return error


def _stopped(ends: Sequence[WorkerStatus], signum: int | None) -> StoppedBySignal:
    by = next((end for end in ends if end.code is not None and end.code > 128), None)
    if signum is None:
        signum = by.code - 128 if by is not None and by.code is not None else signal.SIGTERM
    unsaved = f"by {_name(signum)} before a checkpoint could be saved"
    return StoppedBySignal(signum, by.message if by is not None and by.message else unsaved)


def _lost(ends: Sequence[WorkerStatus], continues: str) -> str:
    """Those that did not end when the others gave up are the lost ones: of them the stopped ones, if there are any."""
    running = [end for end in ends if end.code is None]
    stopped = [end for end in running if end.state == "stopped"]
    if running:
        lost = [f"rank {end.rank}: {end.state}, and did not answer in time" for end in stopped or running]
        return f"{', '.join(lost)} (launch.timeout_s); {continues}"
    spoke = [end for end in ends if end.code == _LOST and end.message]
    aborted = [f"rank {end.rank}" for end in ends if end.killed_by == signal.SIGABRT]
    if not spoke:
        return f"{', '.join(aborted)}: ended by SIGABRT, as NCCL does after launch.timeout_s; {continues}"
    return spoke[0].describe() + (f" ({', '.join(aborted)}: SIGABRT)" if aborted else "")


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # most of the real-time signals
        return f"signal {signum}"
