"""Processes that end with the one that started them, however that ends. Standard library only.

The workers of a run (cli/launch), the jobs of a sweep (cli/sweep) and the processes that tokenise (data) are such. Each
leads a session of its own, so that Ctrl-C in a terminal reaches it through its parent only. Our own modules watch their
stdin, a pipe that closes when the parent has ended, and end with their helpers (`end_with_parent`). A job of a sweep is
a command as users type it, which reads nothing: the kernel is asked to end it (`tied`).

They are no pool of `multiprocessing` or `concurrent.futures`: that would import the parent's main module again, leaves
its processes behind when the parent is killed, and does not say which of them was stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from est_cli.common.waiting import end_waiting

_PR_SET_PDEATHSIG = 1


def python_command(module: str, *arguments: str) -> list[str]:
    """`module` in this interpreter, with the current folder on its path only if this process has it there."""
    here = {"", os.getcwd()} & set(sys.path)
    return [sys.executable, *([] if here else ["-P"]), "-m", module, *arguments]


def start_child(
    command: Sequence[str], tied: bool = False, ignored: Sequence[signal.Signals] = (), **options: Any
) -> subprocess.Popen[Any]:
    """Start `command` in a session of its own; `options` are Popen's.

    `tied`: the kernel kills it when this process ends (Linux; elsewhere it runs on to its end), and it does not hear of
    the signals that are `ignored`.
    """
    end_waiting()  # what it writes would stand behind that
    prepare = _tie(os.getpid(), ignored) if tied else None
    return subprocess.Popen(command, start_new_session=True, preexec_fn=prepare, **options)


def _tie(parent: int, ignored: Sequence[signal.Signals]) -> Callable[[], None]:
    """What the child does first."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it ended before the line above
                os._exit(1)

    return prepare


def end_children(processes: Sequence[subprocess.Popen[Any]], patience_s: float = 0.0) -> None:
    """Kill what is left of each child's session: itself, or helpers that it left behind.

    With `patience_s` they are asked to end by themselves first, and have that long.
    """
    if patience_s:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def end_with_parent(
    receive: Callable[[bytes], None] = lambda line: None, finish: Callable[[], None] = lambda: None
) -> None:
    """End this process and its helpers when stdin closes, which it does when the parent has ended, however.

    `receive` gets the lines that the parent writes, `finish` is called before the end; both in a thread.
    """

    def watch() -> None:
        # Not sys.stdin: Python, when it shuts down, waits for a reader of it and then aborts.
        with os.fdopen(os.dup(0), "rb") as lines:
            for line in lines:
                receive(line)
        finish()
        with suppress(ProcessLookupError):  # where this process leads no group
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
