"""A7: SIGKILL in every phase of a run whose text is tokenised ahead of it (dataset.tokenize=ahead)."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.faults.victims import INTERVAL, assert_same, work_lost
from tests.lab.lab import Lab, Plant, Server, outcome, write_corpus

pytestmark = pytest.mark.row("A7")

FILES = 3
PARTS: Plant = ("small_parts", 8000, 1)
"""A part for each file, made no further than one ahead of the run."""
STEP = "est_cli.training.train.train_step"
WAIT = "est_cli.training.train._await_text"
PARENT = "os.kill(os.getppid(), signal.SIGKILL)"
COUNT = "count = os.open('begun', os.O_CREAT | os.O_APPEND | os.O_WRONLY); os.write(count, b'x')"
"""A byte for each part that begins, in whichever process."""
RENAMED = f"lambda point: point.startswith('rename') and {PARENT}"

PHASES: dict[str, tuple[Plant, ...]] = {
    "before the first part": (("at", "est_cli.data.tokens.token_cache.write_tokens", 1, "before", "SIGKILL"),),
    "first part written": (("at", "est_cli.data.tokens.token_cache.write_tokens", 1, "after", "SIGKILL"),),
    "first part there": (("at", "est_cli.data.source_tokens.first_parts", 1, "after", "SIGKILL"),),
    "before the processes start": (("at", "est_cli.data.tokens.ahead.run_tasks", 1, "before", "SIGKILL"),),
    "a process begins": (("tokenise_so", PARENT),),
    "a part written, not renamed": (
        ("tokenise_so", f"from est_cli.storage import disk; disk.fault_point = {RENAMED}"),
    ),
    "a second part begins": (("tokenise_so", f"{COUNT}; os.fstat(count).st_size < 2 or {PARENT}"),),
    "while it tokenises": (("tokenise_so", "time.sleep(60)"), ("at_step", STEP, 4, "before", "SIGKILL")),
    "while it waits": (("tokenise_so", f"time.sleep(2); {PARENT}; time.sleep(60)"),),
    "a part admitted": (("at_step", WAIT, 9, "after", "SIGKILL"),),
    "in the second epoch": (("at_step", STEP, 28, "after", "SIGKILL"),),
}


@pytest.fixture(scope="module")
def text(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Files of text, and a run on them that nothing has interrupted: outputs/whole."""
    folder = tmp_path_factory.mktemp("ahead")
    for number in range(FILES):
        write_corpus(folder / f"{number}.jsonl", seed=number)
    made = Lab(server, folder, folder / "*.jsonl")
    ended = run(made, "whole")
    assert ended.code == 0, ended.err
    return made


@pytest.fixture
def lab(text: Lab, tmp_path: Path) -> Lab:
    """The same text in a folder without tokens."""
    return Lab(text.server, tmp_path, text.corpus)


def run(lab: Lab, name: str, *plants: Plant) -> Any:
    return lab.tiny(name, "dataset.tokenize=ahead", plants=[PARTS, *plants])


def assert_continues(lab: Lab, text: Lab, name: str = "x") -> None:
    ended = run(lab, name)
    assert ended.code == 0 and ended.last_words == [] and "Traceback" not in ended.err, ended.err
    assert_same(outcome(lab.at(name)), outcome(text.at("whole")))
    assert not list((lab.folder / "data").glob(".tmp-*")), "what was half made is removed"


@pytest.mark.parametrize("phase", either(list(PHASES), ["a part written, not renamed"]))
def test_killed_at_a_chosen_point(text: Lab, lab: Lab, tally: Tally, phase: str) -> None:
    ended = run(lab, "x", *PHASES[phase])
    assert ended.code == -signal.SIGKILL, ended.err
    made = {path: path.stat().st_mtime_ns for path in (lab.folder / "data").glob("[!.]*/tokens.bin")}
    tally(kills=1, lost=work_lost(lab.at("x")) if lab.at("x").exists() else 0)
    assert_continues(lab, text)
    assert made.items() <= {path: path.stat().st_mtime_ns for path in made}.items(), "what was whole is kept"


@only_full
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments(text: Lab, lab: Lab, tally: Tally, seed: int) -> None:
    """Again and again, with processes that take their time, until the run gets to its end."""
    rng, slow = random.Random(seed), [PARTS, ("tokenise_so", "time.sleep(0.3)")]
    for _ in range(5):
        pid = lab.start(
            *lab.arguments("run_name=x", "resume=auto", "dataset.tokenize=ahead"), plants=[("quick",), *slow]
        )
        time.sleep(rng.uniform(0.3, 2.5))
        os.kill(pid, signal.SIGKILL)
        if lab.ended(pid).code != -signal.SIGKILL:
            break
        lost = work_lost(lab.at("x")) if lab.at("x").exists() else 0
        assert lost <= INTERVAL
        tally(kills=1, lost=lost)
    assert_continues(lab, text)
