"""All of `est-train launch.num_processes=2` around a loop that trains nothing: one line, one code, no trace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from est_cli.cli.launch import launcher
from est_cli.cli.launch.handover import WorkerExit, load_job, log_tail, read_exit, read_run_folder, save_job, write_exit
from est_cli.config.schema import typed
from tests.lab.commands import accepted, typed_in
from tests.lab.lab import heed_signals
from tests.lab.standin import alive, wait_until

LOOP = """
import contextlib, json, os, signal, sys, threading, time, types, warnings
from pathlib import Path
from est_cli.config.schema import typed
from est_cli.common import errors

rank = int(os.environ["RANK"])
what = json.loads(os.environ["PLAN"])[rank]
FAILS = {
    "data": errors.DataError("a.txt: is bad"),
    "lost": errors.PeerLostError("the others are gone"),
    "bug": KeyError("ours"),
}

@contextlib.contextmanager
def build(start):
    if what == "early":
        raise FAILS["data"]
    Path(f"config-{rank}").write_text(f"{start.config.seed} {start.folder} {start.config.stage.t1!r}")
    yield types.SimpleNamespace(dir=types.SimpleNamespace(root=Path("outputs/x")))

def run(start):
    with build(start) as running:
        if rank == 0:
            start.announce(running.dir.root)
        train(running)

def train(run):
    Path(f"pid-{rank}").write_text(str(os.getpid()))
    warnings.warn(f"hear rank {rank}")
    while not Path("pid-0").exists() or not Path("pid-1").exists():
        time.sleep(0.01)
    if what == "stop":
        seen = []
        signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
        Path(f"ready-{rank}").touch()
        while not seen:
            time.sleep(0.01)
        raise errors.StoppedBySignal(signal.SIGTERM, "outputs/x: saved at step 7; resume=outputs/x continues")
    if what == "stuck bug":  # one that Python does not get through its shutdown after
        threading.Thread(target=time.sleep, args=(60,)).start()
        raise FAILS["bug"]
    if what in FAILS:
        raise FAILS[what]
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "hang":
        time.sleep(60)

sys.modules["est_cli.training.build"] = sys.modules["est_cli.training.train"] = sys.modules[__name__]
from est_cli.cli.launch.worker import console
console()
"""

TRAIN = f"""
import sys
from est_cli.cli.launch import launcher, supervisor
from est_cli.train import console
supervisor.GRACE_S = 1.0
launcher._worker_command = lambda folder: [sys.executable, "-c", {LOOP!r}, str(folder)]
console()
"""


def started(cwd: Path, *plan: str, **environment: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", TRAIN, "launch.num_processes=2", "seed=7"]
    env = os.environ | {"PLAN": json.dumps(plan), "TMPDIR": str(cwd)} | environment
    return subprocess.Popen(
        program, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
    )


AT = "resume=outputs/x continues from the last checkpoint"
CASES: dict[str, tuple[list[str], int, str]] = {
    "both fail alike": (["data", "data"], 3, "error: a.txt: is bad"),
    "the second fails": (["lost", "data"], 3, "error: rank 1: a.txt: is bad"),
    "the second fails before training": (["hang", "early"], 3, "error: rank 1: a.txt: is bad"),
    "the first is killed": (["kill", "hang"], 7, f"error: rank 0: killed by SIGKILL; {AT}"),
    "the second is killed": (["lost", "kill"], 7, f"error: rank 1: killed by SIGKILL; {AT}"),
    "the second is stopped": (
        ["lost", "freeze"],
        7,
        f"error: rank 1: stopped, and did not answer in time (launch.timeout_s); {AT}",
    ),
    "all are lost": (["lost", "lost"], 7, "error: the others are gone"),
}


@pytest.mark.some(3)
@pytest.mark.parametrize("case", CASES)
def test_one_line_and_the_promised_code(tmp_path: Path, case: str) -> None:
    plan, code, line = CASES[case]
    process = started(tmp_path, *plan)
    out, err = process.communicate(timeout=60)
    told = [text for text in err.splitlines() if not re.search(r"hear rank 0|warnings.warn", text)]
    assert (process.returncode, out, told) == (code, "", [f"est-train: {line}"])
    assert not any(alive(int(path.read_text())) for path in tmp_path.glob("pid-*"))
    assert not list(tmp_path.glob("est-launch-*"))


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("plan", "rank"), [(["bug", "lost"], 0), (["lost", "bug"], 1), (["bug", "bug"], 0), (["lost", "stuck bug"], 1)]
)
def test_a_bug_shows_its_traceback_whoever_has_it(tmp_path: Path, plan: list[str], rank: int) -> None:
    process = started(tmp_path, *plan)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("Traceback") == 1 and "KeyError: 'ours'" in err
    assert err.splitlines()[-1] == f"est-train: error: rank {rank}: ended by a bug; its traceback is above"


@pytest.mark.parametrize("debug", ["0", "1"])
def test_all_well_is_quiet(tmp_path: Path, debug: str) -> None:
    process = started(tmp_path, "done", "done", EST_DEBUG=debug)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "hear rank 0" in err and ("hear rank 1" in err) == (debug == "1")
    assert {(tmp_path / f"config-{rank}").read_text() for rank in range(2)} == {f"7 None {accepted().stage.t1!r}"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_after_a_save(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "stop", "stop")
    wait_until(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "est-train: stopped: outputs/x: saved at step 7; resume=outputs/x continues"


def test_no_orphans_of_a_killed_launcher(tmp_path: Path) -> None:
    process = started(tmp_path, "hang", "stop")
    wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    process.kill()
    process.communicate()
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    try:
        wait_until(lambda: not any(map(alive, pids)), 2.0)
    finally:
        for pid in filter(alive, pids):
            os.kill(pid, signal.SIGKILL)


JOBS = {
    "train": ["stage.t1=3"],
    "eval": ["checkpoint=m", "task=[sst2,perplexity]", "eval.lr=1e-3"],
    "analyze": ["checkpoint=m", "analysis=compare", "stage.p_h=0.25"],
}


@pytest.mark.parametrize("name", JOBS)
def test_what_is_handed_over_comes_back(tmp_path: Path, name: str) -> None:
    config, _ = typed_in(name, "launch.num_processes=2", *JOBS[name])
    for continued in (None, Path("outputs/x")):
        save_job(name, config, continued, tmp_path)
        command, tree, folder = load_job(tmp_path)
        assert (command, typed(tree, type(config)), folder) == (name, config, continued)


def test_the_last_words_of_a_worker_come_back(tmp_path: Path) -> None:
    assert (read_exit(tmp_path, 1), read_run_folder(tmp_path), log_tail(tmp_path, 1)) == (None, None, "")
    write_exit(tmp_path, 1, WorkerExit(3, "a.txt: is bad"))
    assert read_exit(tmp_path, 1) == WorkerExit(3, "a.txt: is bad")
    (tmp_path / "rank-1.json").write_text('{"code": 3, "mess')
    assert read_exit(tmp_path, 1) is None


def test_the_current_folder_is_on_the_workers_path_only_where_it_is_on_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/usr/bin"])
    assert launcher._worker_command(Path("f")) == [sys.executable, "-P", "-m", "est_cli.cli.launch.worker", "f"]
    monkeypatch.setattr(sys, "path", [os.getcwd()])
    assert "-P" not in launcher._worker_command(Path("f"))
