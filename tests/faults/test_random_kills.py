"""A2: kill -9 at random moments of a whole run: start, tokenizing, steps, evaluations, saves, loading, the end."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either
from tests.faults.victims import INTERVAL, Golden, assert_continues, work_lost
from tests.lab.lab import Lab

KILLS = either(20, 3)
"""Of one test."""
FRESH_EVERY = 4
"""Each so many-th victim has no tokenizer and no tokens yet."""


def whole_s(lab: Lab) -> float:
    """How long a run takes that nothing interrupts."""
    began = time.monotonic()
    assert lab.tiny("timed").code == 0
    return time.monotonic() - began


def without_tokens(lab: Lab, number: int) -> Lab:
    folder = lab.folder / f"fresh-{number}"
    folder.mkdir()
    return Lab(lab.server, folder, lab.corpus)


@pytest.mark.row("A2")
@pytest.mark.parametrize("seed", range(either(10, 1)))
def test_killed_at_random_moments(lab: Lab, golden: Golden, tally: Tally, seed: int) -> None:
    """A victim is killed at any moment of its run, twice more at any moment of what is left, and then continued."""
    rng, kills, victims, known_s = random.Random(seed), 0, 0, whole_s(lab)
    fresh_s = whole_s(without_tokens(lab, 0))
    while kills < KILLS:
        victims += 1
        fresh = victims % FRESH_EVERY == 0
        place = without_tokens(lab, victims) if fresh else lab
        name, left = f"victim-{victims}", 1.0
        for _ in range(3):
            moment = rng.uniform(0.0, left)
            if not place.kill_after(moment * (fresh_s if fresh else known_s), name):
                break
            kills += 1
            left = max(0.3, 1.0 - moment)
            lost = work_lost(place.at(name))
            assert lost <= INTERVAL, "lost more than what lies between two checkpoints"
            tally(lost=lost)
        assert_continues(place, golden, name)
        _remove_big_files(place.at(name))
    tally(kills=kills)


def _remove_big_files(run: Path) -> None:
    for path in run.rglob("*.safetensors"):
        path.unlink()
