"""What every command shares: one line on stderr and a fixed exit code for whatever goes wrong."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from est_cli.errors import EstError, OutOfMemory, StoppedBySignal, StorageError

STORAGE_ERRNOS = {errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EMFILE}


def enter(program: str, main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run `main` on the command line and return the exit code (README.md lists them)."""
    _show_messages()
    try:
        with _sigterm_raises():
            _run_and_flush(main, sys.argv if argv is None else argv)
        return 0
    except StoppedBySignal as stop:
        return _report(program, "stopped", stop, stop.exit_code)
    except KeyboardInterrupt as stop:
        return _report(program, "stopped", stop, 130, "by the keyboard before a checkpoint could be saved")
    except BrokenPipeError:
        _silence_stdout()
        return 128 + 13
    except EstError as error:
        return _report(program, "error", error, error.exit_code)
    except OSError as error:
        if error.errno not in STORAGE_ERRNOS:
            raise
        if error.filename is None:
            _silence_stdout()
        told = f"{error.filename or 'standard output'}: {error.strerror}"
        return _report(program, "error", error, StorageError.exit_code, told)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        message = f"train.micro_batch: out of memory; use a smaller one ({_first_line(error)})"
        return _report(program, "error", error, OutOfMemory.exit_code, message)


def leave(code: int) -> NoReturn:
    """End the process with this exit code: at once where a signal asked for it, whatever threads are still doing.

    Shutting Python down around a thread that is inside native code, such as a checkpoint's writer, aborts it.
    """
    if code <= 128:
        sys.exit(code)
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_and_flush(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Output that cannot be written is told here, and not by Python when it shuts down."""
    try:
        main(argv)
    except SystemExit:  # how Hydra ends --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _show_messages() -> None:
    """Information and warnings of our own modules, as plain lines on stderr."""
    logger = logging.getLogger("est_cli")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind and be told as Ctrl-C is, wherever a command does not handle it in a better way."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise StoppedBySignal(signum, "by SIGTERM before a checkpoint could be saved")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _report(program: str, what: str, error: BaseException, code: int, message: str | None = None) -> int:
    if os.environ.get("EST_DEBUG") == "1":
        traceback.print_exception(error)
    line = " ".join((message or str(error)).split())
    print(f"{program}: {what}: {line}", file=sys.stderr, flush=True)
    return code


def _out_of_memory(error: BaseException) -> bool:
    """torch raises OutOfMemoryError on a GPU and a plain RuntimeError of its CPU allocator."""
    return isinstance(error, MemoryError) or "memory" in type(error).__name__.lower() or "can't allocate" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__


def _silence_stdout() -> None:
    """The reader is gone (`est-plan | head -1`); without this Python complains again while it shuts down."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
