"""Canaries in the place of secrets: planted around real commands, then looked for in every byte they write.

Nothing secret belongs into a setting, and what looks like it is refused (test_security_config.py). Where a corpus lies,
and free text such as a prompt, is no secret to its owner: it stands in config.yaml, by which a run is continued, where
a text lies also in the records of what was measured on it, and in the machine's own cache. It is in nothing that is
made to be shown or sent: metrics, summary, pictures, reports, models, W&B.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import FULL, only_full
from tests.lab.lab import TINY, write_corpus

pytestmark = pytest.mark.row("S")

ROOT = Path(__file__).resolve().parents[2]
KEY = "c" * 40
"""W&B refuses keys of another form."""
ENVIRONMENT = {"MY_SECRET": "CANARY-environment", "HF_TOKEN": "hf_CANARYtoken", "WANDB_API_KEY": KEY}
ENVIRONMENT |= {"AWS_ACCESS_KEY_ID": "AKIACANARYtoken", "AWS_SECRET_ACCESS_KEY": "CANARYtoken-aws"}
SECRETS = (b"CANARY-argv", b"CANARY-environment", b"CANARYtoken", KEY.encode(), b"CANARY-git", b"CANARY-exception")
PATH, PROMPT = b"CANARY-path", b"CANARY-config"
RECORDS = ("config.yaml", "zero_shot.json", "analysis.json")
"""Files that say what text was trained or measured on."""
FAILING = """
import sys
import est_cli.training.train
from est_cli import train
loop = sys.modules["est_cli.training.train"]  # beside it there is a function of that name
def fail(*arguments, **keywords):
    raise RuntimeError("CANARY-exception")
assert callable(loop.train_step)
loop.train_step = fail
sys.argv[0] = "est-train"
train.console()
"""


@dataclass(frozen=True)
class RunInputs:
    """A folder to run commands in, where everything that they write is below `work`; what is planted is beside it."""

    work: Path
    planted: Path

    @property
    def corpus(self) -> Path:
        return self.planted / "CANARY-path" / "corpus.jsonl"

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return self.python("-m", f"est_cli.{module}", *arguments)

    def python(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HF_", "EST_"))}
        clean |= {"HOME": str(self.work), "TMPDIR": str(self.work), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        clean |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", **ENVIRONMENT}
        done = subprocess.run([sys.executable, *arguments], cwd=self.work, env=clean, capture_output=True, timeout=300)
        with (self.work / "terminal").open("ab") as terminal:
            terminal.write(done.stdout + done.stderr)
        return done

    def train(self, name: str, *overrides: str) -> list[str]:
        return [
            *(f"--config-dir={self.planted / 'CANARY-argv'}", *TINY, f"dataset.files=[{self.corpus}]"),
            *(f"run_name={name}", "train.sample_prompt=CANARY-config", "tracking.wandb=offline", *overrides),
        ]

    def holding(self, canaries: tuple[bytes, ...]) -> Iterator[str]:
        """The files, and names of files, that hold one of these."""
        for path in sorted(self.work.rglob("*")):
            inside = path.relative_to(self.work)
            if inside.parts[0] == ".git":
                continue
            text = str(inside).encode() + (path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
            if any(canary in text for canary in canaries):
                yield inside.as_posix()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    """A checkout whose remote has a password in its URL, with a corpus and a finished run that W&B followed."""
    folder = tmp_path_factory.mktemp("secrets")
    place = RunInputs(folder / "work", folder)
    for name in ("work/.git/objects", "work/.git/refs", "CANARY-path", "CANARY-argv/experiment"):
        (folder / name).mkdir(parents=True)
    (place.work / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (place.work / ".git" / "config").write_text('[remote "origin"]\nurl = https://me:CANARY-git@example.org/x.git\n')
    write_corpus(place.corpus)
    done = place.run("train", *place.train("x", "train.max_steps=20"))
    assert done.returncode == 0, done.stderr.decode()
    assert list(place.work.glob("outputs/x/wandb/*/*.wandb"))
    return place


def check(place: RunInputs, told: tuple[str, ...] = ()) -> None:
    """`told`: where paths may stand, too."""
    assert list(place.holding(SECRETS)) == []
    assert [name for name in place.holding((PROMPT,)) if not name.endswith("/config.yaml")] == []
    assert [
        name for name in place.holding((PATH,)) if not name.endswith((*RECORDS, *told)) and name[:5] != "data/"
    ] == []


def test_a_run_that_w_and_b_follows(place: RunInputs, tally: Tally) -> None:
    check(place)
    assert list(place.holding((PROMPT,))) == ["outputs/x/config.yaml"]
    tally(inputs=6)


def test_a_secret_would_be_found(place: RunInputs) -> None:
    """The search sees what it looks for."""
    (place.work / "leak").write_bytes(b"\x00" + KEY.encode())
    assert list(place.holding(SECRETS)) == ["leak"]
    (place.work / "leak").rename(place.work / "CANARY-argv")
    (place.work / "CANARY-argv").write_bytes(b"")
    assert list(place.holding(SECRETS)) == ["CANARY-argv"]
    (place.work / "CANARY-argv").unlink()


def commands(place: RunInputs) -> dict[str, list[str]]:
    small = ["analyze.tokens=512", "analyze.seq_len=32", "analyze.points=3", "analyze.directions=1"]
    return {
        "plan": place.train("y", "plot=plan.png"),
        "report": ["outputs/x"],
        "eval": [
            *("checkpoint=outputs/x", "task=perplexity", f"eval.files=[{place.corpus}]", "eval.max_length=32"),
            *("tracking.wandb=offline",),
        ],
        "analyze": [
            "checkpoint=outputs/x",
            "analysis=flatness",
            "dataset=text",
            f"dataset.files=[{place.corpus}]",
            *small,
        ],
    }


@pytest.mark.parametrize("name", ["plan", "report", "eval", "analyze"] if FULL else ["report"])
def test_the_other_commands(place: RunInputs, tally: Tally, name: str) -> None:
    arguments = commands(place)[name]
    done = place.run(name, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    check(place, told=("terminal",) if name == "report" else ())  # the very command that is missing, to who sits there
    tally(inputs=6)


@only_full
def test_an_exception_is_told_on_the_terminal_only(place: RunInputs, tally: Tally) -> None:
    """A bug of ours ends with its traceback, for whoever sits there; nothing of it is kept or sent."""
    done = place.python("-c", FAILING, *place.train("failing"))
    assert done.returncode == 1 and b"CANARY-exception" in done.stderr
    (place.work / "terminal").write_bytes(b"")
    check(place)
    assert list(place.work.glob("outputs/failing/wandb/*/*.wandb"))
    tally(inputs=1)


@only_full
def test_a_corpus_that_is_bad_is_named_on_the_terminal_only(place: RunInputs, tally: Tally) -> None:
    bad = place.planted / "CANARY-path" / "bad.jsonl"
    bad.write_text('{"text": "CANARY-exception"\n')
    done = place.run("train", *place.train("bad", f"dataset.files=[{bad}]"))
    assert done.returncode == 3 and done.stderr.count(b"CANARY") == 1 and b"bad.jsonl:1: not JSON" in done.stderr
    (place.work / "terminal").write_bytes(b"")
    check(place)
    tally(inputs=1)
