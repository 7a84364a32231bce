"""Processes that tokenise units, and go when their parent does: what the parent does, then what such a process does.

A process gets its tasks as lines of JSON on stdin, and reports lines of JSON on stdout:

    {"read": BYTES}                            progress; every few seconds, if of 0 bytes: the process is not stopped
    {"done": REMEMBERED}                       the task's folder is in its place
    {"error": KIND, "message": ONE_LINE}       the user can mend it
    {"bug": TRACEBACK}

Light: neither torch nor transformers is imported here.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tokenizers import Tokenizer

from est_cli.common.child import end_children, end_with_parent, start_child
from est_cli.common.errors import DataError, EstError, StorageError
from est_cli.data.text.pieces import Advance, Unit
from est_cli.data.tokens.encode import Encoder, write_tokens
from est_cli.storage.cache import publish

COMMAND = [sys.executable, "-P", "-m", "est_cli.data.tokens.encode_workers"]
NUMBER_KEY = "dataset.num_workers"
"""How many of these processes a training has."""
STARTS_S = 300.0
"""Time for a process to start in; its libraries may come through a slow network."""
SILENT_S = 25.0
"""A process tells every few seconds that it is there, whatever it is doing. One that does not was stopped."""
ALIVE_S = 2.0
POLL_S = 0.5
REPORT_S = 0.5

ERRORS: dict[str, type[EstError]] = {error.__name__: error for error in (DataError, StorageError)}

Report = Callable[[dict[str, Any]], None]


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    task: int = -1
    """Index of the task that it is at; -1: none."""
    read: int = 0
    """Bytes of the task that are known to be read."""
    expected: float = field(default_factory=lambda: time.monotonic() + STARTS_S)
    """By when it must have said something."""


@dataclass(frozen=True)
class Pace:
    """When tasks may begin, for those that are done beside a training."""

    may_begin: Callable[[int], bool] = lambda index: True
    """Of a task by its index. Where no task is being done, and none may begin, the processes end."""
    stopped: Callable[[], bool] = lambda: False
    """Whether all is to end now, what is being done included."""
    nice: int = 0
    """How much other processes go before."""


AT_ONCE = Pace()


def run_tasks(
    tasks: Sequence[dict[str, Any]], count: int, threads: int, advance: Advance, pace: Pace = AT_ONCE
) -> list[dict[str, Any]]:
    """Have `count` processes of `threads` threads do all tasks that may begin; what each returned, in their order.

    Where some of them cannot be done, the error is that of the first in the order of `tasks`, whichever failed first.
    """
    results: dict[int, dict[str, Any]] = {}
    failures: dict[int, Exception] = {}
    waiting = list(range(len(tasks)))
    with _workers(count, threads, pace.nice) as workers, selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(_pipe(worker.process.stdout), selectors.EVENT_READ, worker)
        while not pace.stopped():
            for worker in workers:
                if worker.task < 0 and not failures:
                    _hand_next(worker, waiting, tasks, pace)
            if not any(worker.task >= 0 and _matters(worker.task, failures) for worker in workers):
                break
            for key, _ in selector.select(POLL_S):
                worker, message = key.data, _received(key.data, tasks)
                worker.expected = time.monotonic() + SILENT_S
                if "read" in message:
                    worker.read += message["read"]
                    advance(message["read"])
                    continue
                if "done" in message:
                    results[worker.task] = message["done"]
                    advance(tasks[worker.task]["unit"]["size"] - worker.read)
                else:
                    failures[worker.task] = _failure(message)
                worker.task = -1
            _refuse_silent(workers, tasks)
    if failures:
        raise failures[min(failures)]
    return [results[index] for index in sorted(results)]


def _refuse_silent(workers: Sequence[_Worker], tasks: Sequence[dict[str, Any]]) -> None:
    """Raise DataError where one that has something to do does not answer."""
    for worker in workers:
        if worker.task >= 0 and time.monotonic() > worker.expected:
            raise DataError(
                f"{tasks[worker.task]['key']}: process {worker.process.pid}, which tokenises, was stopped and does not "
                "answer; start again to continue"
            )


def _matters(task: int, failures: dict[int, Exception]) -> bool:
    """A task after one that failed need not end; one before it may fail as well, and would be the first."""
    return not failures or task < min(failures)


@contextmanager
def _workers(count: int, threads: int, nice: int) -> Iterator[list[_Worker]]:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "1"}
    command, workers = [*COMMAND, *([str(nice)] if nice else [])], list[_Worker]()
    try:
        for _ in range(count):
            # No buffers: a selector does not see what waits in one.
            pipe = subprocess.PIPE
            # What native code prints when it gives up is not for the user, who gets one line.
            stderr = None if os.environ.get("EST_DEBUG") == "1" else subprocess.DEVNULL
            child = start_child(command, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, bufsize=0)
            workers.append(_Worker(child))
        yield workers
    finally:
        end_children([worker.process for worker in workers])
        for worker in workers:
            _pipe(worker.process.stdin).close()
            _pipe(worker.process.stdout).close()


def _hand_next(worker: _Worker, waiting: list[int], tasks: Sequence[dict[str, Any]], pace: Pace) -> None:
    """Give a worker that is free the next task, if there is one that may begin."""
    if (index := next(filter(pace.may_begin, waiting), None)) is None:
        return
    waiting.remove(index)
    worker.task, worker.read = index, 0
    left = memoryview(json.dumps(tasks[index]).encode() + b"\n")
    try:
        while left:
            left = left[_pipe(worker.process.stdin).write(left) :]
    except BrokenPipeError as error:
        raise _lost(worker, tasks[index]) from error


def _received(worker: _Worker, tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    line = _pipe(worker.process.stdout).readline()
    if not line.endswith(b"\n"):
        raise _lost(worker, tasks[worker.task])
    return json.loads(line)


def _lost(worker: _Worker, task: dict[str, Any]) -> DataError:
    code = worker.process.wait()
    if code == -signal.SIGPROF:
        return DataError(f"tokenizer: takes more than {task['encoder']['limit_s']:g} s of CPU time for a short text")
    if task["memory"] is not None and code in (-signal.SIGABRT, -signal.SIGKILL):
        gigabytes = task["memory"] / 1e9
        return DataError(f"tokenizer: makes so much of a text that {gigabytes:.2g} GB of memory are not enough")
    how = f"was killed by signal {-code}, perhaps for lack of memory" if code < 0 else f"ended with code {code}"
    fewer = ", with fewer" if task["key"] == NUMBER_KEY else ""
    return DataError(f"{task['key']}: a process that tokenises {how}; start again to continue{fewer}")


def _failure(message: dict[str, Any]) -> Exception:
    if "bug" in message:
        return RuntimeError(message["bug"])
    return ERRORS.get(message["error"], EstError)(message["message"])


def _pipe(stream: Any) -> Any:
    assert stream is not None
    return stream


def main() -> None:
    """Do the tasks that come, until the parent is gone; an argument says how much other processes go before."""
    for nice in sys.argv[1:]:
        os.nice(int(nice))
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
        tasks: SimpleQueue[dict[str, Any]] = SimpleQueue()
        end_with_parent(receive=lambda line: tasks.put(json.loads(line)))
        while True:
            _try(tasks.get(), report)


def _say_alive(report: Report) -> None:
    while True:
        report({"read": 0})
        time.sleep(ALIVE_S)


def _try(task: dict[str, Any], report: Report) -> None:
    try:
        report({"done": _do(task, _throttled(report))})
    except MemoryError:
        os.abort()  # as native code does
    except EstError as error:
        report({"error": type(error).__name__, "message": str(error)})
    except Exception:
        report({"bug": traceback.format_exc()})


def _do(task: dict[str, Any], advance: Advance) -> dict[str, Any]:
    if task["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (task["memory"], task["memory"]))
    unit, encoder = Unit.of(task["unit"]), _encoder(task["tokenizer"], **task["encoder"])

    def build(place: Path) -> dict[str, Any]:
        return {**write_tokens(place, unit, encoder, task["fraction"], advance), "tokenizer": task["digest"]}

    return publish(Path(task["folder"]), build)


@lru_cache(maxsize=1)
def _encoder(path: str, end: int, dtype: str, cut: str, limit_s: float = 0.0) -> Encoder:
    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode_special_tokens = True  # no part of the file
    return Encoder(tokenizer, end, dtype, cut, limit_s)


def _throttled(report: Report) -> Advance:
    """An `Advance` that reports twice a second, and never more than was read."""
    reported, read = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal reported, read
        read += count
        if (now := time.monotonic()) - reported > REPORT_S:
            report({"read": read})
            reported, read = now, 0

    return advance


if __name__ == "__main__":
    main()
