"""A sign of life on a terminal while a command starts, which takes seconds of imports: until anything else is written.

Standard library only. It is drawn by a thread, and the streams of common/streams.py end it with their first write.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle

FIRST_S, EVERY_S = 0.2, 0.1
"""Seconds until it is seen, for most of what is wrong with a command line is told before, and between two pictures."""
FRAMES, PLAIN_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"
STDERR = 2
ERASE = "\r\x1b[K"


class _Spinner:
    def __init__(self, word: str) -> None:
        self.word = word
        self._lock, self._ended, self._drawn = threading.RLock(), threading.Event(), False
        utf = (getattr(sys.stderr, "encoding", None) or "").lower().startswith("utf")
        self._frames = cycle(FRAMES if utf else PLAIN_FRAMES)
        threading.Thread(target=self._turn, daemon=True).start()

    def _turn(self) -> None:
        pause_s = FIRST_S
        while not self._ended.wait(pause_s):
            with self._lock:
                if not self._ended.is_set():
                    _write(f"{ERASE}{next(self._frames)} {self.word}\r")
                    self._drawn = True
            pause_s = EVERY_S

    def end(self) -> None:
        """Take it off the screen; a signal's handler may call this too."""
        with self._lock:
            self._ended.set()
            if self._drawn:
                _write(ERASE)
            self._drawn = False


_current: _Spinner | None = None


def end_waiting() -> None:
    """Take the sign off the screen for good, where there is one."""
    global _current
    if _current is not None:
        _current.end()
        _current = None


def tell_waiting(word: str) -> None:
    """Show another word, where the sign is there."""
    if _current is not None:
        _current.word = word


@contextmanager
def waiting(shown: bool, word: str = "starting") -> Iterator[None]:
    """Show that something goes on until anything is written, until `end_waiting`, or the end of the block.

    `word` names it. Not shown: where stderr is no terminal, or one that others write to since this process is in the
    background.
    """
    global _current
    if shown and _is_seen():
        _current = _Spinner(word)
    try:
        yield
    finally:
        end_waiting()


def _is_seen() -> bool:
    if not os.isatty(STDERR) or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    try:
        return os.tcgetpgrp(STDERR) == os.getpgrp()
    except OSError:  # a child in a session of its own, whose parent shows its output
        return True


def _write(text: str) -> None:
    with suppress(OSError):
        os.write(STDERR, text.encode(errors="replace"))
