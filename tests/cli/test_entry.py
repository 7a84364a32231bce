"""What a command ends with: one line on stderr and the promised exit code."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace

import pytest

from est_cli.cli.entry import _Plain, enter
from est_cli.common import errors

NO_MEMORY = (
    "error: train.micro_batch: out of memory; use a smaller one, train.micro_batch=1 at the least, or "
    "train.activation_checkpointing=true"
)


def ends_with(error: BaseException) -> int:
    def main(argv: Sequence[str]) -> None:
        raise error

    return enter("est-x", main, ["est-x"])


class OutOfMemoryError(RuntimeError):
    """As torch names its own on a GPU."""


CASES: list[tuple[BaseException, int, str]] = [
    (errors.ConfigError("seed: is bad"), 2, "error: seed: is bad"),
    (errors.DataError("a.txt:3: is no text"), 3, "error: a.txt:3: is no text"),
    (errors.CheckpointError("step-1: is damaged"), 4, "error: step-1: is damaged"),
    (errors.NumericsError("loss: is not finite"), 5, "error: loss: is not finite"),
    (errors.StorageError("outputs: is full"), 6, "error: outputs: is full"),
    (errors.PeerLostError("rank 1: is lost"), 7, "error: rank 1: is lost"),
    (errors.RunLockedError("outputs/x: in use"), 8, "error: outputs/x: in use"),
    (errors.OutOfMemory("train.micro_batch: too large"), 9, "error: train.micro_batch: too large"),
    (errors.StoppedBySignal(15, "after step 7"), 143, "stopped: after step 7"),
    (errors.StoppedBySignal(2, "after step 7"), 130, "stopped: after step 7"),
    (KeyboardInterrupt(), 130, "stopped: by the keyboard before a checkpoint could be saved"),
    (OSError(errno.ENOSPC, "No space left on device", "a/b"), 6, "error: a/b: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied", "a/b"), 6, "error: a/b: Permission denied"),
    (MemoryError(), 9, f"{NO_MEMORY} (MemoryError)"),
    (OutOfMemoryError("CUDA\nout"), 9, f"{NO_MEMORY} (CUDA)"),
    (RuntimeError("[enforce fail] can't allocate memory"), 9, "error: train.micro_batch: out of memory; use a smaller"),
    (errors.ConfigError("first\n  second\tthird\n"), 2, "error: first second third"),
]


@pytest.mark.parametrize(("error", "code", "line"), CASES)
def test_one_line_and_the_promised_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert ends_with(error) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"est-x: {line}") and err.count("\n") == 1 and err.endswith("\n")


def test_every_error_class_has_its_own_code() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EstError)]
    codes = [kind.exit_code for kind in classes]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "error", [ValueError("ours"), RuntimeError("ours"), KeyError("ours"), FileNotFoundError("ours")]
)
def test_a_bug_of_ours_is_not_dressed_up(error: Exception) -> None:
    with pytest.raises(type(error), match="ours"):
        ends_with(error)


def test_debugging_adds_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EST_DEBUG", "1")
    assert ends_with(errors.ConfigError("seed: is bad")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and any("ends_with" in line or "in main" in line for line in lines)
    assert lines[-1] == "est-x: error: seed: is bad"


def test_success_is_silent_and_the_arguments_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[Sequence[str]] = []
    assert enter("est-x", got.append, ["est-x", "a=1"]) == 0
    assert got == [["est-x", "a=1"]] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_told_and_the_old_handler_comes_back(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def main(argv: Sequence[str]) -> None:
        os.kill(os.getpid(), number)

    found = signal.signal(number, signal.SIG_DFL)  # under nohup the tests themselves ignore SIGHUP
    try:
        assert enter("est-x", main, []) == 128 + number
        by = "the keyboard" if number == signal.SIGINT else number.name
        assert capsys.readouterr().err == f"est-x: stopped: by {by} before a checkpoint could be saved\n"
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_library_drops_is_told_when_something_breaks_of_it(
    capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def main(argv: Sequence[str]) -> None:
        with suppress(BaseException):
            os.kill(os.getpid(), number)
        raise AttributeError("a module that was imported by halves")

    assert enter("est-x", main, []) == 128 + number
    assert capsys.readouterr().err.startswith("est-x: stopped: by ")


def test_a_signal_that_is_ignored_stays_so() -> None:
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert enter("est-x", lambda argv: os.kill(os.getpid(), signal.SIGHUP), []) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


PRINTS = """
import sys
from est_cli.cli.entry import _Plain, enter

def main(argv):
    for _ in range({lines}):
        print("line")
    {end}
    from rich.console import Console
    Console().print("line")
    sys.stdout.flush()

sys.exit(enter("est-x", main, []))
"""
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.mark.parametrize("lines", [1, 100_000])  # what fits into the buffer is written last of all
@pytest.mark.parametrize("end", ["return", "sys.exit(0)", "pass"])  # and what rich makes of it
@pytest.mark.parametrize(
    ("broken", "code", "told"),
    [("closed", 128 + signal.SIGPIPE, ""), ("full", 6, "est-x: error: standard output: No space left on device\n")],
)
def test_output_that_cannot_be_written(lines: int, end: str, broken: str, code: int, told: str) -> None:
    if broken == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    program = [sys.executable, "-c", PRINTS.format(lines=lines, end=end)]
    ended = subprocess.run(program, stdout=out, stderr=subprocess.PIPE, text=True, env=BUFFERED, check=False)
    os.close(out)
    assert (ended.returncode, ended.stderr) == (code, told)


@pytest.mark.slow
@pytest.mark.parametrize("code", [143, 130, 7, 0, 5])
def test_a_signal_or_a_lost_peer_ends_the_process_whatever_its_threads_do(code: int) -> None:
    script = (
        "import threading, time; from est_cli.cli.entry import leave; "
        f"threading.Thread(target=time.sleep, args=(3,)).start(); print('told', end=''); leave({code})"
    )
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=BUFFERED)
    assert (ended.returncode, ended.stdout) == (code, "told")
    assert (time.monotonic() - began < 3.0) == (code in (143, 130, 7))


RANKS = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}


@pytest.mark.parametrize(
    ("rank", "error", "told"),
    [
        (0, errors.ConfigError("seed: is bad"), "est-x: error: seed: is bad\n"),
        (8, errors.ConfigError("seed: is bad"), "est-x: error: rank 8: seed: is bad\n"),  # another machine's first
        (9, errors.DataError("a.txt: is bad"), "est-x: error: rank 9: a.txt: is bad\n"),
        (0, errors.StoppedBySignal(15, "saved"), "est-x: stopped: saved\n"),
        (8, errors.StoppedBySignal(15, "saved"), ""),
    ],
)
def test_several_processes_name_themselves_or_leave_it_to_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: int, error: BaseException, told: str
) -> None:
    for name, value in (RANKS | {"RANK": str(rank), "LOCAL_RANK": str(rank % 8)}).items():
        monkeypatch.setenv(name, value)
    ends_with(error)
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("heavy", [False, True])
def test_an_error_in_the_settings_is_told_by_one_process_of_a_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, heavy: bool
) -> None:
    for name, value in (RANKS | {"RANK": "9", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    slept: list[float] = []
    monkeypatch.setattr("est_cli.cli.entry.time.sleep", slept.append)
    if heavy:
        monkeypatch.setitem(sys.modules, "torch", sys)
    else:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert ends_with(errors.ConfigError("seed: is bad")) == 2
    told = capsys.readouterr().err
    assert (told, slept) == (("est-x: error: rank 9: seed: is bad\n", []) if heavy else ("", [5.0]))


def test_what_is_told_can_go_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[tuple[int, str]] = []

    def main(argv: Sequence[str]) -> None:
        raise errors.StoppedBySignal(15, "saved\nat step 3")

    assert enter("est-x", main, [], tell=lambda code, line: got.append((code, line))) == 143
    assert got == [(143, "saved at step 3")] and capsys.readouterr() == ("", "")


def test_nothing_of_the_command_stays_behind_in_the_process(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever calls a command from Python keeps their own logging."""

    def main(argv: Sequence[str]) -> None:
        logging.getLogger("est_cli.anything").info("inside")

    assert enter("est-x", main, ["est-x"]) == 0 == enter("est-x", main, ["est-x"])
    assert capsys.readouterr().err == "inside\ninside\n"
    logging.getLogger("est_cli.anything").warning("outside")
    assert "outside" in caplog.text and "inside" not in caplog.text


def test_an_environment_of_other_programs_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's kernel names a backend that is not installed here; warnings as errors are for one's own code."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONWARNINGS", "error")

    def main(argv: Sequence[str]) -> None:
        assert os.environ["MPLBACKEND"] == "agg"
        assert "PYTHONWARNINGS" not in os.environ, "the processes that it starts are to have it as easy"
        warnings.warn("of a library", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error")
        assert enter("est-x", main, ["est-x"]) == 0
    assert [str(one.message) for one in told] == ["of a library"]


class PanicException(BaseException):
    """As tokenizers has it."""


def test_code_in_rust_that_gives_up_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> None:
        raise PanicException("Onig: Regex search error:\nretry-limit-in-match over")

    assert enter("est-x", main, ["est-x"]) == 3
    told = "tokenizer: its code gave up on a text (Onig: Regex search error: retry-limit-in-match over)"
    assert capsys.readouterr().err == f"est-x: error: {told}\n"


def test_messages_go_on_between_words_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord(
        "est_cli", logging.INFO, "", 0, "%s tokens of %s documents", ("2,953,123", "60,900"), None
    )
    monkeypatch.setenv("COLUMNS", "27")
    shown = []
    for terminal in (True, False):
        monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
        shown.append(_Plain().format(record))
    monkeypatch.undo()
    assert shown == ["2,953,123 tokens of 60,900\n  documents", "2,953,123 tokens of 60,900 documents"]
