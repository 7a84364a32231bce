"""What every command shares: one line on stderr and a fixed exit code for whatever goes wrong."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import est_cli
from est_cli.cli.completion import is_query, offered
from est_cli.common.errors import (
    ConfigError,
    DataError,
    EstError,
    OutOfMemory,
    PeerLostError,
    StoppedBySignal,
    StorageError,
    is_panic,
    reason,
    way_out,
)
from est_cli.common.rank import Rank, rank_of_environment
from est_cli.common.redact import one_line
from est_cli.common.signals import handling, signals_deferred
from est_cli.common.streams import STDOUT, prepare_streams, silence_stdout
from est_cli.common.waiting import waiting
from est_cli.common.wrapping import at_words

if TYPE_CHECKING:
    from est_cli.cli.command import Command

Tell = Callable[[int, str], None]
"""Takes an exit code and the line that explains it."""

FIRST_SPEAKS_S = 5.0
"""How long another rank with the same error waits: a launcher such as torchrun stops all when one has ended."""
GOMP_SPINCOUNT = "20000"
"""Turns (some 50 us) that threads of torch's OpenMP library wait busily for each other before they sleep.

By its own default they wait for milliseconds: beside another process that keeps a core busy, each of the thousand waits
of a step lasts until the scheduler takes the core away from a waiting thread (docs/performance.md has the cost).
"""

STORAGE_ERRNOS = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENOSPC, errno.EPERM, errno.EROFS,
    errno.ESTALE,
}  # fmt: skip


def enter(
    program: str,
    main: Callable[[Sequence[str]], None],
    argv: Sequence[str] | None = None,
    tell: Tell | None = None,
) -> int:
    """Run `main` on the command line and return the exit code (docs/commands.md lists them).

    Where something went wrong, `tell` is called with the code and the line for the user; by default it goes to stderr.
    """
    prepare_streams()
    _prepare_environment()
    stops: list[BaseException] = []
    given = sys.argv if argv is None else argv
    try:
        with waiting(_rank().first and not _answers_at_once(given)), _messages_shown(), _signals_raise(stops):
            if "--version" not in given[1:]:
                _require_folder()
            _run_and_flush(_print_version if "--version" in given[1:] else main, given)
        return 0
    except (BrokenPipeError, SystemExit) as left:
        if not isinstance(left, BrokenPipeError) and not isinstance(left.__context__, BrokenPipeError):
            raise
        silence_stdout()  # rich, too, has met it, and makes an exit of it
        return 128 + signal.SIGPIPE
    except BaseException as error:
        # Where Python or a library has dropped what a signal raised, something is missing and breaks later.
        explained = _explained(error) or (_explained(stops[0]) if stops else None)
        if explained is None:
            raise
        if os.environ.get("EST_DEBUG") == "1":
            traceback.print_exception(error)
        code, message = explained
        line = one_line(message)
        if tell is None:
            _print_line(program, error, code, line)
        else:
            tell(code, line)
        return code


def run_command(command: Command, argv: Sequence[str]) -> None:
    """Do what the command line says. Any EstError may come out of it, and StoppedBySignal."""
    if is_query(argv):
        print("\n".join(offered(command.schema, os.environ)))
        return
    with signals_deferred():
        from est_cli.cli.dispatch import dispatch  # Hydra, which --version has no need of

    dispatch(command, argv)


def leave(code: int) -> NoReturn:
    """End the process with this exit code: at once where a signal asked for it or another process is lost.

    Shutting Python down around a thread that is inside native code, such as a checkpoint's writer, aborts it, and one
    that waits for a lost process keeps it.
    """
    if code <= 128 and code != PeerLostError.exit_code:
        sys.exit(code)
    with suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answers_at_once(argv: Sequence[str]) -> bool:
    return is_query(argv) or not {"--version", "--help", "-h"}.isdisjoint(argv[1:])


def _prepare_environment() -> None:
    """For this process, before it imports what reads these, and for those that it starts."""
    os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files; a notebook's kernel names a backend that is not there
    if "error" in os.environ.get("PYTHONWARNINGS", ""):  # warnings of torch or matplotlib are no reason to stop
        del os.environ["PYTHONWARNINGS"]
        warnings.simplefilter("default")
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)  # as Python does by itself


def _require_folder() -> None:
    """Raise StorageError where the current folder was removed: nothing can be found or written by its name."""
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError(f"current folder: is not there any more ({error.strerror}); change to another") from error


def _explained(error: BaseException) -> tuple[int, str] | None:
    """The exit code and what the user is told; None for a bug of ours."""
    if isinstance(error, StoppedBySignal | EstError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "by the keyboard before a checkpoint could be saved"
    if isinstance(error, OSError):
        if error.filename == STDOUT:
            silence_stdout()
        elif error.errno not in STORAGE_ERRNOS:
            return None
        return (
            StorageError.exit_code,
            f"{error.filename or 'a file'}: {error.strerror}{'' if error.filename == STDOUT else way_out(error)}",
        )
    if is_panic(error):
        return DataError.exit_code, f"tokenizer: its code gave up on a text ({reason(error)})"
    if not _out_of_memory(error):
        return None
    smaller = "use a smaller one, train.micro_batch=1 at the least, or train.activation_checkpointing=true"
    return OutOfMemory.exit_code, f"train.micro_batch: out of memory; {smaller} ({_first_line(error)})"


def _print_line(program: str, error: BaseException, code: int, line: str) -> None:
    """One line of all processes where they have the same to say, and of each its own where they may not.

    They stop together. An error in the settings, before anything heavy is imported, is told once on each machine.
    """
    rank, what = _rank(), "stopped" if code > 128 else "error"
    if rank.local_rank and isinstance(error, ConfigError) and "torch" not in sys.modules:
        time.sleep(FIRST_SPEAKS_S)
    elif rank.first:
        print(f"{program}: {what}: {line}", file=sys.stderr, flush=True)
    elif what == "error":
        print(f"{program}: {what}: rank {rank.rank}: {line}", file=sys.stderr, flush=True)


def _rank() -> Rank:
    try:
        return rank_of_environment()
    except ValueError:  # about to be refused
        return Rank()


def _run_and_flush(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Output that cannot be written is told here, and not by Python when it shuts down."""
    try:
        main(argv)
    except SystemExit:  # how Hydra ends --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _print_version(argv: Sequence[str]) -> None:
    """For every command, before it imports anything."""
    print(f"est-cli {est_cli.__version__}")


class _Plain(logging.Formatter):
    """A message as one line, which goes on between words where a terminal is too narrow."""

    def format(self, record: logging.LogRecord) -> str:
        line = one_line(super().format(record))
        return at_words(line, shutil.get_terminal_size().columns) if sys.stderr.isatty() else line


@contextmanager
def _messages_shown() -> Iterator[None]:
    """Information and warnings of our own modules, as plain lines on stderr; of ranks other than the first warnings."""
    logger, handler = logging.getLogger("est_cli"), logging.StreamHandler()
    handler.setFormatter(_Plain())
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if _rank().first else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _signals_raise(stops: list[BaseException]) -> Iterator[None]:
    """Let signals unwind and be told, wherever a command does nothing better with them; `stops` gets what is raised."""

    def stop(signum: int, frame: FrameType | None) -> None:
        words = f"by {signal.Signals(signum).name} before a checkpoint could be saved"
        stops.append(KeyboardInterrupt() if signum == signal.SIGINT else StoppedBySignal(signum, words))
        raise stops[-1]

    with handling(stop):
        yield


def _out_of_memory(error: BaseException) -> bool:
    """torch raises OutOfMemoryError on a GPU and a plain RuntimeError of its CPU allocator."""
    return isinstance(error, MemoryError) or "memory" in type(error).__name__.lower() or "can't allocate" in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
