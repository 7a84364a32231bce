"""One job's process: what it says, how it ends, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from est_cli.cli.sweep.run_job import JobExit, JobSignals, noted_signals, run_child
from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import STOPPING

ROOT = Path(__file__).resolve().parents[3]


def child(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, subprocess, sys, time\n{code}"]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("pass", JobExit(0, None)),
        ("sys.exit('est-train: error: seed: is bad')", JobExit(1, "seed: is bad")),
        ("print('est-train: stopped: after step 7', file=sys.stderr); sys.exit(143)", JobExit(143, "after step 7")),
        ("print('est-eval: error: task: no\\nmore', file=sys.stderr); sys.exit(2)", JobExit(2, "task: no")),
        ("raise KeyError('x')", JobExit(1, "KeyError: 'x'")),
        ("os.kill(os.getpid(), signal.SIGKILL)", JobExit(137, "killed by SIGKILL")),
        ("sys.exit(3 if os.getpgrp() == os.getpid() else 4)", JobExit(3, None)),
        ("print('x' * 1000000); sys.stderr.buffer.write(bytes([255, 10]))", JobExit(0, None)),
        ("subprocess.Popen(['sleep', '20']); print('it', file=sys.stderr)", JobExit(0, "it")),  # keeps the pipe
    ],
)
def test_how_a_job_ends(monkeypatch: pytest.MonkeyPatch, code: str, ended: JobExit) -> None:
    monkeypatch.setattr("est_cli.cli.sweep.run_job.SECOND_SIGNAL_S", 0.5)
    began = time.monotonic()
    got = run_child(child(code), JobSignals())
    assert got.code == ended.code and (got.reason == ended.reason or ended.code == 0)
    assert time.monotonic() - began < 15


def test_a_job_reads_nothing_of_what_is_typed() -> None:
    keyboard, typed = os.pipe()
    os.write(typed, b"y\n")
    os.close(typed)
    before = os.dup(0)
    os.dup2(keyboard, 0)
    try:
        assert run_child(child("sys.exit(len(sys.stdin.read()))"), JobSignals()).code == 0
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(keyboard)


def test_progress_goes_through_and_output_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    run_child(child("print('table')\nfor i in range(3): print('step', i, file=sys.stderr)"), JobSignals())
    assert capfd.readouterr() == ("", "step 0\nstep 1\nstep 2\n")


def test_a_job_of_submitit_ignores_its_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM follows."""
    warned = child("os.kill(os.getpid(), signal.SIGUSR2)")
    assert run_child(warned, JobSignals()) == JobExit(140, "killed by SIGUSR2")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    assert run_child(warned, JobSignals()).code == 0


SAVES = """
def stop(signum, frame):
    signal.signal(signum, signal.SIG_DFL)
    print("est-train: stopped: saved", file=sys.stderr)
    time.sleep({seconds})
    sys.exit(128 + signum)

signal.signal({number}, stop)
open({ready!r}, "w").close()
time.sleep(20)
"""


def send_after(ready: Path, times: int, number: int = signal.SIGTERM) -> None:
    """A signal to this process when the job is there, and again."""

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_lets_the_job_save(tmp_path: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    found = signal.signal(number, signal.SIG_DFL)  # under nohup the tests themselves ignore SIGHUP
    send_after(ready, 1, number)
    try:
        with noted_signals() as signals:
            ended = run_child(child(SAVES.format(number=int(number), ready=str(ready), seconds=0.5)), signals)
    finally:
        signal.signal(number, found)
    assert ended == JobExit(128 + number, "saved") and signals.signum == number


def test_the_second_signal_ends_both_at_once(tmp_path: Path) -> None:
    ready, began = tmp_path / "ready", time.monotonic()
    send_after(ready, 2)
    with pytest.raises(StoppedBySignal) as stop, noted_signals() as signals:
        run_child(child(SAVES.format(number=15, ready=str(ready), seconds=20)), signals)
    assert stop.value.exit_code == 143 and time.monotonic() - began < 10


def test_a_signal_that_comes_while_the_job_is_started_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen

    def start(*args: object, **kwargs: object) -> subprocess.Popen[str]:
        os.kill(os.getpid(), signal.SIGINT)
        return popen(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "Popen", start)
    with noted_signals() as signals:
        ended = run_child(["sleep", "20"], signals)
    assert ended == JobExit(130, "killed by SIGINT") and signals.signum == signal.SIGINT


def test_a_cluster_that_takes_the_machine_back_lets_the_job_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's handler of the warning raises SystemExit wherever its process is."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    ready, saved = tmp_path / "ready", tmp_path / "saved"

    def leave(signum: int, frame: object) -> None:
        sys.exit(-1)

    previous = signal.signal(signal.SIGUSR1, leave)
    code = f"def stop(*_): open({str(saved)!r}, 'w').close(); sys.exit(143)\nsignal.signal(signal.SIGTERM, stop)\n"
    threading.Thread(target=lambda: (_wait_for(ready), os.kill(os.getpid(), signal.SIGUSR1)), daemon=True).start()
    try:
        with pytest.raises(SystemExit), noted_signals() as signals:
            run_child(child(f"{code}open({str(ready)!r}, 'w').close()\ntime.sleep(20)"), signals)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert saved.exists()


def test_slurm_itself_sends_signals_to_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with noted_signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert run_child(child("time.sleep(0.3)"), signals) == JobExit(0, None)
    assert signals.signum == signal.SIGTERM


PARENT = """
from est_cli.cli.sweep.run_job import JobSignals, run_child
run_child(["sh", "-c", "echo $$ > {pid}; exec sleep 60"], JobSignals())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_job_outlives_a_killed_sweep(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", PARENT.format(pid=pid)], cwd=ROOT) as sweep:
        _wait_for(pid)
        time.sleep(0.1)
        job = int(pid.read_text())
        os.kill(job, 0)
        sweep.kill()
    begin = time.monotonic()
    while _alive(job):
        assert time.monotonic() - begin < 5
        time.sleep(0.01)


def _wait_for(path: Path) -> None:
    begin = time.monotonic()
    while not path.exists():
        assert time.monotonic() - begin < 20
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
