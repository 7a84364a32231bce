"""A stand-in for Slurm on one machine: sbatch, srun, scontrol, sacct and scancel, as far as est and submitit use them.

A cluster is a folder. Its `bin` is put on the PATH; each job has a controller, a process that runs the batch script,
again where it is queued again, sends it the signal of its time limit, and writes down how it ended. All nodes are this
machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "srun", "scontrol", "sacct", "scancel")
LIMIT = "FAKE_LIMIT"
"""Names the file with which the time of a job's first start is nearly over."""


def make_cluster(folder: Path) -> dict[str, str]:
    """Make the commands; what the environment of their users needs besides."""
    (folder / "bin").mkdir(parents=True)
    (folder / "jobs").mkdir()
    root = Path(__file__).resolve().parents[2]
    for name in COMMANDS:
        command = folder / "bin" / name
        words = [sys.executable, "-P", str(Path(__file__).resolve()), str(folder), name]
        command.write_text(f'#!/bin/sh\nexport PYTHONPATH={root}\nexec {shlex.join(words)} "$@"\n')
        command.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def state_of(folder: Path, job: str) -> dict[str, Any]:
    """What is known of a job: its state, how often it was started, its exit codes."""
    found: dict[str, Any] = json.loads((folder / "jobs" / f"{job}.json").read_text())
    return found


def wait_for(folder: Path, job: str, timeout_s: float = 400.0) -> dict[str, Any]:
    """The same when the job has ended. AssertionError if it does not."""
    until = time.monotonic() + timeout_s
    while state_of(folder, job)["state"] in ("PENDING", "RUNNING"):
        assert time.monotonic() < until, f"job {job} goes on: {state_of(folder, job)}"
        time.sleep(0.1)
    return state_of(folder, job)


class Cluster:
    def __init__(self, folder: Path) -> None:
        self.jobs = folder / "jobs"
        self.folder = folder

    def sbatch(self, *args: str) -> None:
        at = next(n for n, arg in enumerate(args) if not arg.startswith("-"))
        script, own = Path(args[at]), [*args[at + 1 :]]
        options = _options([*re.findall(r"^#SBATCH (.*)$", script.read_text(), re.MULTILINE), *args[:at]])
        number = str(1000 + len(list(self.jobs.glob("*.sh"))))
        (self.jobs / f"{number}.sh").write_text(script.read_text())
        first, last = re.match(r"(\d+)-(\d+)", options["array"]).groups() if "array" in options else ("", "")  # type: ignore[union-attr]
        names = [f"{number}_{n}" for n in range(int(first), int(last) + 1)] if first else [number]
        for name in names:
            self._write(name, state="PENDING", options=options, args=own, starts=0, codes=[], requeue=False)
            words = [sys.executable, str(Path(__file__).resolve()), str(self.folder), "control", name]
            quiet = subprocess.DEVNULL
            subprocess.Popen(words, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)
        print(f"Submitted batch job {number}")

    def control(self, name: str) -> None:
        """Run a job to its end, as often as it is queued again."""
        while True:
            state = state_of(self.folder, name)
            self._write(name, **state | {"state": "RUNNING", "starts": state["starts"] + 1, "requeue": False})
            code = self._run(name, state["options"], state["args"])
            state = state_of(self.folder, name)
            state["codes"].append(code)
            if not state["requeue"]:
                self._write(name, **state | {"state": "COMPLETED" if code == 0 else "FAILED"})
                return
            self._write(name, **state | {"state": "PENDING"})

    def _run(self, name: str, options: dict[str, str], args: list[str]) -> int:
        number, _, index = name.partition("_")
        nodes = options.get("nodes", "1")
        environment = os.environ | {
            "SLURM_JOB_ID": str(int(number) * 100 + int(index)) if index else number,
            "SLURM_JOB_NUM_NODES": nodes,
            "SLURM_NNODES": nodes,
            "SLURM_JOB_NODELIST": f"localhost[1-{nodes}]",
            "SLURM_NODELIST": f"localhost[1-{nodes}]",
            "FAKE_JOB": name,
        }
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
        out = _pattern(options.get("output", "slurm-%j.out"), name, "0")
        with open(out, "a") as log:
            batch = subprocess.Popen(
                ["bash", str(self.jobs / f"{number}.sh"), *args],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            if state_of(self.folder, name)["starts"] == 1 and LIMIT in os.environ:
                _limit(batch, options, Path(os.environ[LIMIT]))
            return batch.wait()

    def srun(self, *args: str) -> None:
        words = list(args)
        named = _options([" ".join(words[: _command_at(words)])])
        nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
        tasks = []
        for node in range(nodes):
            own = {"SLURM_PROCID": node, "SLURM_LOCALID": 0, "SLURM_NODEID": node, "SLURM_NTASKS": nodes}
            job = os.environ["FAKE_JOB"]
            out, err = (_log(named[key], job, node) if key in named else None for key in ("output", "error"))
            tasks.append(
                subprocess.Popen(
                    words[_command_at(words) :],
                    env=os.environ | {key: str(value) for key, value in own.items()},
                    stdout=out,
                    stderr=err,
                )
            )
        signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
        codes = [task.wait() for task in tasks]
        sys.exit(max(abs(code) for code in codes))

    def scontrol(self, what: str, *args: str) -> None:
        if what == "show":
            nodes = re.search(r"1-(\d+)", args[1])
            os.write(1, b"localhost\n" * int(nodes[1] if nodes else 1))
            return
        assert what == "requeue", what
        name = os.environ["FAKE_JOB"]
        self._write(name, **state_of(self.folder, name) | {"requeue": True})

    def sacct(self, *args: str) -> None:
        print("JobID|State|NodeList")
        for file in sorted(self.jobs.glob("*.json")):
            print(f"{file.stem}|{json.loads(file.read_text())['state']}|localhost")

    def scancel(self, *args: str) -> None:
        raise SystemExit("scancel: not in this stand-in")

    def _write(self, name: str, **state: Any) -> None:
        path = self.jobs / f"{name}.json"
        path.with_suffix(".tmp").write_text(json.dumps(state))
        path.with_suffix(".tmp").replace(path)


def _limit(batch: subprocess.Popen[bytes], options: dict[str, str], seen: Path) -> None:
    """The signal before the time limit, when this file is there; `B:` sends it to the batch script alone."""
    while batch.poll() is None and not seen.exists():
        time.sleep(0.02)
    where, _, rest = options["signal"].rpartition(":")
    number = getattr(signal, f"SIG{rest.partition('@')[0]}")
    if where == "B":
        batch.send_signal(number)
    else:
        _signal_steps(batch.pid, number)


def _signal_steps(batch: int, number: int) -> None:
    """To all tasks of the job, and not to its batch script: they are the children of srun."""
    for srun in _children(batch):
        for task in _children(srun):
            os.kill(task, number)


def _children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout.split()
    return [int(number) for number in found]


def _log(path: str, job: str, task: int) -> int:
    return os.open(_pattern(path, job, str(task)), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _options(lines: list[str]) -> dict[str, str]:
    """`--nodes=2`, `--array 0-1` and the like, by name."""
    words = [word for line in lines for word in shlex.split(line)]
    found: dict[str, str] = {}
    for n, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else (words[n + 1] if n + 1 < len(words) else "")
    return found


def _command_at(words: list[str]) -> int:
    """Where srun's own options end."""
    n = 0
    while words[n].startswith("-"):
        n += 2 if words[n] in ("--output", "--error") else 1
    return n


def _pattern(path: str, job: str, task: str) -> str:
    number, _, index = job.partition("_")
    return path.replace("%A", number).replace("%a", index).replace("%j", job).replace("%t", task)


if __name__ == "__main__":
    getattr(Cluster(Path(sys.argv[1])), sys.argv[2])(*sys.argv[3:])
