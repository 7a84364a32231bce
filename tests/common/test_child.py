"""Processes that end with their parent; the supervisor's, a sweep's and the tokenisers' tests show it of real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from est_cli.common.child import end_children, python_command, start_child

WATCHES = """
import sys, time
from est_cli.common.child import end_with_parent
end_with_parent(receive=lambda line: print(line.decode(), end="", flush=True), finish=lambda: print("end", flush=True))
time.sleep(float(sys.argv[1]))
"""


def watching(seconds: float) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return start_child([sys.executable, "-c", WATCHES, str(seconds)], stdin=pipe, stdout=pipe, stderr=pipe)


def test_the_current_folder_is_on_a_childs_path_only_where_it_is_on_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_command("est_cli.train", "seed=1")[-3:] == ["-m", "est_cli.train", "seed=1"]
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert python_command("est_cli.eval")[1] == "-P"
    monkeypatch.setattr(sys, "path", [""])
    assert python_command("est_cli.eval")[1] == "-m"


def test_a_child_gets_lines_and_ends_when_no_more_can_come() -> None:
    out, err = watching(60).communicate(b"one\ntwo\n", timeout=30)
    assert (out, err) == (b"one\ntwo\nend\n", b"")


def test_a_child_that_is_done_ends_while_it_is_watched() -> None:
    """Python aborts where it shuts down while a thread reads sys.stdin."""
    process = watching(0.2)
    assert process.wait(30) == 0
    _, err = process.communicate()
    assert err == b""


@pytest.mark.parametrize(("patience_s", "code"), [(0.0, -signal.SIGKILL), (20.0, 3)])
def test_children_are_asked_first_where_there_is_time(patience_s: float, code: int) -> None:
    program = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(3))\nprint(flush=True)\ntime.sleep(60)"
    process = start_child([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"\n"
    began = time.monotonic()
    end_children([process], patience_s)
    process.stdout.close()
    assert process.returncode == code and time.monotonic() - began < 15


def test_helpers_of_a_child_are_ended_too() -> None:
    program = ["sh", "-c", "sleep 60 & echo $!"]
    process = start_child(program, stdout=subprocess.PIPE)
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    assert os.getsid(helper) == process.pid and process.wait() == 0
    end_children([process])
    process.stdout.close()
    deadline = time.monotonic() + 10
    while _alive(helper):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
