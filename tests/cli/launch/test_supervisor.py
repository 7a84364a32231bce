"""Workers live and die together: exit codes, deaths, signals, and nothing left behind. No worker here uses torch."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from est_cli.cli.launch import supervisor
from est_cli.cli.launch.supervisor import worker_environment
from tests.lab.standin import Plan, launched, state, wait_until

FAILURES: dict[str, tuple[Plan, list[int | None]]] = {
    "all done": ([("exit", 0), ("exit", 0)], [0, 0]),
    "the first fails": ([("exit", 3), ("hang", 0)], [3, None]),
    "the last fails": ([("hang", 0), ("hang", 0), ("exit", 7)], [None, None, 7]),
    "the first is killed": ([("kill", 9), ("hang", 0)], [-9, None]),
    "the second is killed": ([("hang", 0), ("kill", 11)], [None, -11]),
    "one has spoken but does not end": ([("word", 7), ("exit", 7)], [7, 7]),
    "a helper stays behind": ([("helper", 0), ("helper", 0)], [0, 0]),
    "one is deaf": ([("deaf", 0), ("exit", 1)], [None, 1]),
}


@pytest.mark.some(2)
@pytest.mark.parametrize("case", FAILURES)
def test_what_happens_to_one_happens_to_all(tmp_path: Path, case: str) -> None:
    plan, codes = FAILURES[case]
    with launched(tmp_path, plan) as run:
        ended, _, signum, seconds = run.ended()
        assert (ended, signum) == (codes, None)
        assert seconds < supervisor.GRACE_S + 2 and run.all_gone()


def test_a_stopped_worker_is_seen_and_killed(tmp_path: Path) -> None:
    with launched(tmp_path, [("save", 0), ("save", 0), ("save", 0)]) as run:
        stopped, killed = run.pids()[1][0], run.pids()[2][0]
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: state(stopped) == "T")
        os.kill(killed, signal.SIGKILL)
        codes, states, _, _ = run.ended()
        assert codes == [None, None, -9] and states[:2] == ["hangs", "stopped"] and run.all_gone()


SIGNALS: dict[str, tuple[Plan, list[signal.Signals], list[int | None], float, float]] = {
    "a long save": ([("save", 2.5), ("save", 0)], [signal.SIGTERM], [143, 143], 2.5, 5),  # longer than the grace
    "Ctrl-C": ([("save", 0.5), ("save", 0)], [signal.SIGINT], [143, 143], 0.5, 3),
    "a closed terminal": ([("save", 0), ("save", 0)], [signal.SIGHUP], [143, 143], 0, 3),
    "nothing to save yet": ([("hang", 0), ("hang", 0)], [signal.SIGTERM], [-15, -15], 0, 3),
    "one is not ready yet": ([("save", 30), ("hang", 0)], [signal.SIGTERM], [None, -15], 1, 4),
    "the second": ([("save", 30), ("save", 30)], [signal.SIGINT, signal.SIGTERM], [-15, -15], 0, 3),
    "the second, and one is deaf": ([("deaf", 0), ("save", 0)], [signal.SIGTERM] * 2, [None, 143], 1, 4),
    "the third": ([("deaf", 0), ("deaf", 0)], [signal.SIGTERM] * 3, [None, None], 0, 2),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("case", SIGNALS)
def test_signals(tmp_path: Path, case: str) -> None:
    plan, signals, codes, at_least_s, at_most_s = SIGNALS[case]
    with launched(tmp_path, plan) as run:
        for number in signals:
            run.process.send_signal(number)
            time.sleep(0.4)  # the launcher looks 10 times a second
        ended, _, signum, seconds = run.ended()
        assert (ended, signum) == (codes, signals[0])
        assert at_least_s <= seconds <= at_most_s and run.all_gone()


@pytest.mark.parametrize("plan", [[("save", 30), ("save", 30)], [("deaf", 0), ("deaf", 0)]])
def test_no_orphans_of_a_killed_launcher(tmp_path: Path, plan: Plan) -> None:
    with launched(tmp_path, plan) as run:
        run.process.kill()
        wait_until(run.all_gone, 2.0)


def test_a_stopped_launcher_harms_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, [("save", 0), ("save", 0)]) as run:
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        assert not run.all_gone()
        run.process.send_signal(signal.SIGTERM)
        run.process.send_signal(signal.SIGCONT)
        assert run.ended()[0] == [143, 143]


def test_only_the_first_is_heard(tmp_path: Path) -> None:
    with launched(tmp_path, [("exit", 0), ("exit", 0)]) as run:
        out, err = run.process.communicate(timeout=30)
        assert out.splitlines()[:-1] == ["rank 0 on stdout"] and err == "rank 0 on stderr\n"
        assert (tmp_path / "rank-1.log").read_text() == "rank 1 on stderr\n"


def test_the_environment_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("RANK", "5")
    got = worker_environment(1, 2, 4242)
    expected = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "4242"}
    assert {name: got[name] for name in expected} == expected
    assert got["MASTER_ADDR"] == "127.0.0.1" and got["OMP_NUM_THREADS"] == "7" and got["PATH"] == os.environ["PATH"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert worker_environment(0, 1000, 1)["OMP_NUM_THREADS"] == "1"


def test_the_port_is_kept_for_the_workers() -> None:
    with supervisor._reserved_port() as port:
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", port))
        with socket.socket() as first:  # as torch's TCPStore listens
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("", port))
            first.listen()
