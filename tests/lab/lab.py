"""A folder to run est-train in, a client of the fork server, and what two runs are compared by."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from est_cli.common.signals import STOPPING
from est_cli.storage.store import step_folders, verify_folder
from est_cli.tracking.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "EST_DEBUG": "0"}
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "counts", "red", "stones")

STEPS, T1, T2 = 30, 8, 18
"""A tiny run: stages of 8, 10 and 12 steps; a checkpoint every 5 steps and at 8 and 18, an evaluation every 4."""

TINY = (
    "dataset=text dataset.num_workers=1 dataset.validation_fraction=0.3 model.vocab_size=300 model.hidden_size=32 "
    "model.num_layers=4 model.num_heads=4 model.max_positions=32 train.seq_len=32 train.tokens_per_step=128 "
    "train.micro_batch=2 train.checkpoint_every=5 train.eval_every=4 train.spread_draws=2 train.spread_tokens=32 "
    "tracking.wandb=off "
    f"train.max_steps={STEPS} stage.t1={T1} stage.t2={T2}"
).split()


Plant = Sequence[Any]
"""Name of a function in tests/lab/plants.py and its arguments."""

QUICK: tuple[Plant, ...] = (("quick",),)


@dataclass(frozen=True)
class Ended:
    """How a victim ended: its exit code, or minus the signal that killed it."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> list[str]:
        """The lines that a command ends with when it does not succeed; everything else on stderr is progress."""
        return [line for line in self.err.splitlines() if line.startswith("est-train:")]


class Server:
    """The client's side of tests/lab/server.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=ENVIRONMENT,
            start_new_session=True,  # a stopped victim can earn its process group a SIGHUP, which may be pytest's own
        )  # fmt: skip

    def ask(self, **request: Any) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def heed_signals() -> None:
    """Those that a shell has its background jobs ignore, and nohup, must reach a victim all the same."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def write_corpus(path: Path, documents: int = 18, seed: int = 0) -> Path:
    """Few enough blocks that a tiny run sees each of them several times: its epochs end in the middle of steps."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=60)) for _ in range(documents)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@dataclass(frozen=True)
class Lab:
    """A current folder for est-train, with a corpus and its tokens already there."""

    server: Server
    folder: Path
    corpus: Path
    golden_runs: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)
    """Uninterrupted runs by their overrides, shared by all labs."""

    def at(self, name: str) -> Path:
        return self.folder / "outputs" / name

    def start(
        self,
        *overrides: str,
        plants: Sequence[Plant] = QUICK,
        environment: dict[str, str] | None = None,
        name: str = "",
        command: str = "train",
    ) -> int:
        """Start est-`command` with exactly these overrides; returns the process id, for `ended` with the same name."""
        request = {"command": command, "argv": list(overrides), "cwd": str(self.folder), "plants": list(plants)}
        return self.server.ask(**request, environment=environment or {}, name=name)

    def ended(self, pid: int, name: str = "") -> Ended:
        code = self.server.ask(wait=pid)
        return Ended(code, (self.folder / f"{name}out.txt").read_text(), (self.folder / f"{name}err.txt").read_text())

    def start_ranks(
        self, count: int, *overrides: str, plants: dict[int, Sequence[Plant]] | None = None, name: str = ""
    ) -> list[int]:
        """Start est-train in `count` processes of one run, as torchrun would; `plants` by rank."""
        port = str(free_port())
        pids = []
        for rank in range(count):
            environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            environment |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            planted = [*QUICK, *(plants or {}).get(rank, ())]
            pids.append(self.start(*overrides, plants=planted, environment=environment, name=f"{name}rank{rank}-"))
        return pids

    def ranks_ended(self, pids: Sequence[int], name: str = "") -> list[Ended]:
        return [self.ended(pid, f"{name}rank{rank}-") for rank, pid in enumerate(pids)]

    def tiny_ranks(
        self, count: int, name: str, *overrides: str, plants: dict[int, Sequence[Plant]] | None = None
    ) -> list[Ended]:
        """`tiny` in several processes."""
        arguments = self.arguments(f"run_name={name}", "resume=auto", "launch.timeout_s=20", *overrides)
        return self.ranks_ended(self.start_ranks(count, *arguments, plants=plants))

    def train(self, *overrides: str, plants: Sequence[Plant] = ()) -> Ended:
        return self.ended(self.start(*overrides, plants=[*QUICK, *plants]))

    def tool(self, command: str, *arguments: str, plants: Sequence[Plant] = ()) -> Ended:
        """est-`command`, another one than est-train."""
        return self.ended(self.start(*arguments, plants=[*QUICK, *plants], command=command))

    def arguments(self, *overrides: str) -> list[str]:
        """The overrides of a tiny run; of a key that is given twice the last counts."""
        given = [*TINY, f"dataset.files={self.corpus}", *overrides]
        return [f"{key}={value}" for key, value in dict(item.split("=", 1) for item in given).items()]

    def tiny(self, name: str, *overrides: str, plants: Sequence[Plant] = ()) -> Ended:
        """A tiny run of this name, or what is left of it where that was killed."""
        return self.train(*self.arguments(f"run_name={name}", "resume=auto", *overrides), plants=plants)

    def kill_after(self, seconds: float, name: str) -> bool:
        """A tiny run that gets SIGKILL after so long; False if it had ended before."""
        pid = self.start(*self.arguments(f"run_name={name}", "resume=auto"))
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return self.ended(pid).code == -signal.SIGKILL

    def golden(self, *overrides: str) -> dict[str, Any]:
        """The outcome of the uninterrupted tiny run."""
        if overrides not in self.golden_runs:
            name = f"golden-{len(self.golden_runs)}"
            ended = self.tiny(name, *overrides)
            assert ended.code == 0, ended.err
            self.golden_runs[overrides] = outcome(self.at(name))
        return self.golden_runs[overrides]


def cached_tokens(data: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What the cache remembers of the corpus, and its tokens: to train on first, then the held-out ones.

    It is the oldest there: the fixture `shared` makes it first, and other tests may have added some of other settings.
    """
    file = min(data.glob("*/tokens.bin"), key=lambda path: path.stat().st_mtime_ns)
    remembered = json.loads((file.parent / "meta.json").read_text())["remembered"]
    return remembered, np.fromfile(file, remembered["dtype"])


TIMES = {"tokens_per_s", "step_s", "text_wait_s", "median_step_s", "mem_gb", "time_s", "time_saved_pct"}


def outcome(run: Path) -> dict[str, Any]:
    """All that must be the same, to the last bit, in a finished run that was interrupted and one that was not."""
    last = step_folders(run / "checkpoints")[-1][1]
    files = verify_folder(last)["files"] | {f"model/{k}": v for k, v in verify_folder(run / "model")["files"].items()}
    summary = json.loads((run / "summary.json").read_text())
    return {
        "records": [_without_times(record) for record in read_metrics(run / "metrics.jsonl")],
        **({"layers": read_metrics(run / "layers.jsonl")} if (run / "layers.jsonl").exists() else {}),
        "summary": _without_times(summary) | {"git_commit": ...},  # which somebody may make while tests run
        "sha256": {name: entry["sha256"] for name, entry in files.items() if name != "state.json"},
        "checkpoints": [path.name for _, path in step_folders(run / "checkpoints")],
        "left over": [path.name for path in run.rglob(".*") if path.name != ".lock"],
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value


def train_records(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if "loss" in record]


def losses(run: Path) -> list[float | None]:
    """The training loss of each logged step."""
    return [record["loss"] for record in train_records(run)]


def sha256_of(run: Path, step: int) -> dict[str, str]:
    """The digests of the weights and the optimizer in a checkpoint."""
    files = verify_folder(run / "checkpoints" / f"step-{step:06d}")["files"]
    return {name: files[name]["sha256"] for name in ("model.safetensors", "optim.safetensors")}


def tree_hash(folder: Path) -> str:
    """Names, modes, times and contents of everything below `folder` but the locks."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.name != ".lock"):
        status = path.lstat()
        digest.update(f"{path.relative_to(folder)} {status.st_mode} {status.st_mtime_ns}\n".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
