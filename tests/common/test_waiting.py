"""The sign of life of a command that starts, as a terminal sees it: a real one, a process without torch behind it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from est_cli.cli.entry import _answers_at_once
from est_cli.common.waiting import ERASE, FRAMES, PLAIN_FRAMES

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys, time
from est_cli.cli.entry import enter, leave
from est_cli.common.child import start_child
from est_cli.common.signals import signals_deferred
def main(argv):
    with signals_deferred():
        time.sleep(float(argv[2]))
    if argv[1] == "child":
        start_child([sys.executable, "-c", "import time; time.sleep(0.4); print('said')"]).wait()
    elif argv[1] != "nothing":
        print("said", file=getattr(sys, argv[1], None))
leave(enter("est-x", main))
"""


class Seen:
    """What came to a terminal while a program ran."""

    def __init__(self, what: str, seconds: float, interrupt_s: float | None = None, **environment: str) -> None:
        master, slave = pty.openpty()
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONUTF8": "1", **environment}
        command, began = [sys.executable, "-c", PROGRAM, what, str(seconds)], time.monotonic()
        process = subprocess.Popen(command, stdout=slave, stderr=slave, env=variables, start_new_session=True)
        os.close(slave)
        found = b""
        while True:
            try:
                found += os.read(master, 4096)
            except OSError:
                break
            if interrupt_s is not None and time.monotonic() - began > interrupt_s:
                process.send_signal(signal.SIGINT)
                interrupt_s = None
        os.close(master)
        self.code, self.text = process.wait(), found.decode().replace("\r\n", "\n")

    @property
    def left(self) -> str:
        """What stands on the screen at the end."""
        return "\n".join(line.rpartition(ERASE)[2] if ERASE in line else line for line in self.text.split("\n"))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_it_turns_until_anything_is_written(stream: str) -> None:
    seen = Seen(stream, 1.0)
    assert seen.code == 0 and seen.left == "said\n"
    drawn, _, after = seen.text.partition("said")
    assert drawn.count(" starting\r") > 3 and {frame for frame in FRAMES if frame in drawn} >= set(FRAMES[:3])
    assert after == "\n"


def test_nothing_is_left_of_a_command_that_says_nothing() -> None:
    assert Seen("nothing", 0.8).left == ""


def test_a_child_finds_a_clean_line() -> None:
    seen = Seen("child", 0.6)
    assert seen.left == "said\n" and seen.text.rpartition(ERASE)[2] == "said\n"


def test_what_is_quick_shows_nothing() -> None:
    assert Seen("stdout", 0.0).text == "said\n"


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"WORLD_SIZE": "2", "RANK": "1"}], ids=["dumb", "rank"])
def test_who_could_not_use_it_does_not_get_it(variables: dict[str, str]) -> None:
    assert Seen("stdout", 0.8, **variables).text == "said\n"


def test_what_answers_at_once_does_without() -> None:
    assert all(_answers_at_once(["est-train", *args]) for args in (["-sc", "query=bash"], ["--help"], ["--version"]))
    assert not _answers_at_once(["est-train", "seed=1"])


def test_an_old_terminal_gets_plain_signs() -> None:
    drawn = Seen("stdout", 0.8, PYTHONUTF8="0", PYTHONIOENCODING="ascii").text
    assert drawn.isascii() and any(f"{frame} starting" in drawn for frame in PLAIN_FRAMES)


def test_the_keyboard_is_heard_and_leaves_a_clean_screen() -> None:
    seen = Seen("stdout", 1.5, interrupt_s=0.6)
    assert seen.code == 130 and " stopping\r" in seen.text and "said" not in seen.text
    assert seen.left == "est-x: stopped: by the keyboard before a checkpoint could be saved\n"


def test_a_pipe_gets_nothing() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    command = [sys.executable, "-c", PROGRAM, "stdout", "0.8"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (ended.stdout, ended.stderr) == ("said\n", "")
