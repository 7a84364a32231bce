"""Other trackers follow a run's records, each in a thread of its own: whatever one does, or not, training goes on.

What a tracker was not told before, because it was chosen only later or the process was killed, it reads in the files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from est_cli.common.redact import one_line
from est_cli.tracking.metrics import RunTail
from est_cli.tracking.records import Record

POLL_S = 1.0
"""How often the files are looked at."""
FINISH_TIMEOUT_S = 30.0
"""How long the end of a run waits for what is still on its way."""


class Mirror(Protocol):
    """A tracker; all calls come from one thread, and may raise whatever they like."""

    name: str

    def start(self) -> None:
        """Open it, and find out what it holds already."""

    def log(self, record: Record) -> None:
        """Take a record, unless it holds it already."""

    def finish(self, whole: bool) -> None:
        """Close it. `whole`: the run has come to its end."""


class Follower:
    """One mirror of a run's records. Any failure turns it off with one line given to `warn`."""

    def __init__(self, mirror: Mirror, records: RunTail, warn: Callable[[str], None]) -> None:
        self._mirror, self._tail, self._warn = mirror, records, warn
        self._closed = threading.Event()
        self._whole, self._until, self._left = False, 0.0, False
        self._thread = threading.Thread(target=self._guarded, name=mirror.name, daemon=True)
        self._thread.start()

    def end(self, whole: bool) -> None:
        """Have it read the files to their end; nothing more will come. It is not waited for."""
        if not self._closed.is_set():
            self._whole, self._until = whole, time.monotonic() + FINISH_TIMEOUT_S
            self._closed.set()

    def close(self, whole: bool) -> None:
        """Wait until it has come to the end, at most FINISH_TIMEOUT_S from end() on; may be called again."""
        self.end(whole)
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._thread.is_alive() and not self._left:
            self._left = True
            self._warn(
                f"{self._mirror.name}: not finished after {FINISH_TIMEOUT_S:g} s and left alone; metrics.jsonl is whole"
            )

    def _guarded(self) -> None:
        try:
            self._mirror.start()
            for record in self._records():
                self._mirror.log(record)
            self._mirror.finish(self._whole)
        except BaseException as error:  # its text may hold secrets, so only its type is told
            kind = one_line(type(error).__name__)
            self._warn(f"{self._mirror.name}: failed ({kind}) and is off; metrics.jsonl goes on")

    def _records(self) -> Iterator[Record]:
        """Those in the files and those that come, until the run is closed and all are read."""
        while True:
            last = self._closed.is_set()  # asked before reading: what was written until then is read
            while found := self._tail.new():
                yield from found
            if last:
                return
            self._closed.wait(POLL_S)
