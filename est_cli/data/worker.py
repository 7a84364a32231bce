"""A worker process: does the tasks that arrive as lines of JSON on stdin, and reports lines of JSON on stdout.

    {"read": BYTES}                            progress; every few seconds, if of 0 bytes: the process is not stopped
    {"done": REMEMBERED}                       the task's folder is in its place
    {"error": KIND, "message": ONE_LINE}       the user can mend it
    {"bug": TRACEBACK}

It ends as soon as its stdin does, whatever it is doing: when its parent is gone, however it went, nobody waits.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from tokenizers import Tokenizer

from est_cli.common.errors import EstError
from est_cli.data.encode import Encoder, write_tokens
from est_cli.data.pieces import Advance, Unit
from est_cli.storage.cache import publish

REPORT_S = 0.5
ALIVE_S = 2.0

Report = Callable[[dict[str, Any]], None]


def main() -> None:
    """Work until stdin ends."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as reports:
        os.dup2(2, 1)  # what libraries print must not be taken for a report

        one_at_a_time = threading.Lock()

        def report(message: dict[str, Any]) -> None:
            try:
                with one_at_a_time:
                    reports.write(json.dumps(message).encode() + b"\n")
            except BrokenPipeError:
                os._exit(0)

        threading.Thread(target=_say_alive, args=(report,), daemon=True).start()
        for task in _tasks(sys.stdin.buffer):
            _try(task, report)


def _say_alive(report: Report) -> None:
    while True:
        report({"read": 0})
        time.sleep(ALIVE_S)


def _tasks(lines: BinaryIO) -> Iterator[dict[str, Any]]:
    inbox: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def read() -> None:
        for line in lines:
            inbox.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield inbox.get()


def _try(task: dict[str, Any], report: Report) -> None:
    try:
        report({"done": _do(task, _throttled(report))})
    except EstError as error:
        report({"error": type(error).__name__, "message": str(error)})
    except Exception:
        report({"bug": traceback.format_exc()})


def _do(task: dict[str, Any], advance: Advance) -> dict[str, Any]:
    unit, encoder = Unit(**task["unit"]), _encoder(task["tokenizer"], task["end"], task["dtype"])
    return publish(Path(task["folder"]), lambda place: write_tokens(place, unit, encoder, task["fraction"], advance))


@lru_cache(maxsize=1)
def _encoder(path: str, end: int, dtype: str) -> Encoder:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode_special_tokens = True  # no part of the file
    return Encoder(tokenizer, end, dtype)


def _throttled(report: Report) -> Advance:
    """An `Advance` that reports twice a second, and never more than was read."""
    told, read = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal told, read
        read += count
        if (now := time.monotonic()) - told > REPORT_S:
            report({"read": read})
            told, read = now, 0

    return advance


if __name__ == "__main__":
    main()
