"""B1: a run continued from each of its steps, under each way to train, has the tail of the run that was not."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.size import either
from tests.faults.victims import assert_same, finished
from tests.lab.lab import Lab, Plant

pytestmark = pytest.mark.row("B1")

STEPS = 40
LADDER = (f"train.max_steps={STEPS}", "stage.t1=12", "stage.t2=25", "train.eval_every=20", "train.keep_last=99")
ACCUMULATED, AHEAD, PRECISIONS = (1, 4), (False, True), ("fp32", "bf16")
"""Micro-batches of a step; whether inputs and checkpoints are made by threads, as on a GPU; the precision."""
Way = tuple[int, bool, str]
WAYS: list[Way] = list(itertools.product(ACCUMULATED, AHEAD, PRECISIONS))
TENS = range(0, STEPS, 10)

Ladder = Callable[[Way], tuple[Path, dict[str, Any]]]


def settings(way: Way) -> tuple[tuple[str, ...], tuple[Plant, ...]]:
    micro_batches, ahead, precision = way
    plants: tuple[Plant, ...] = (("device_works_on_its_own",),) if ahead else ()
    return (*LADDER, f"train.micro_batch={4 // micro_batches}", f"train.precision={precision}"), plants


@pytest.fixture(scope="module")
def ladder(shared: Lab) -> Ladder:
    """The folder of the whole run with a checkpoint at every step, and its outcome."""
    known: dict[Way, dict[str, Any]] = {}

    def whole(way: Way) -> tuple[Path, dict[str, Any]]:
        name = "ladder-{}-{}-{}".format(*way)
        if way not in known:
            overrides, plants = settings(way)
            known[way] = finished(shared, name, *overrides, "train.checkpoint_every=1", plants=plants)
        return shared.at(name), known[way]

    return whole


def cut_at(whole: Path, step: int, target: Path) -> None:
    """The run as a kill would have left it after this step, with nothing older; the next process mends the records."""
    checkpoint = f"checkpoints/step-{step:06d}"
    (target / checkpoint).mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl"):
        shutil.copy(whole / name, target / name)
    for file in (whole / checkpoint).iterdir():
        os.link(file, target / checkpoint / file.name)


@pytest.mark.parametrize("first", either(list(TENS), [20]))
@pytest.mark.parametrize("way", either(WAYS, [WAYS[2]]), ids=str)
def test_continued_from_each_step(lab: Lab, ladder: Ladder, way: Way, first: int) -> None:
    whole, expected = ladder(way)
    overrides, plants = settings(way)
    for step in range(first + 1, first + 11, either(1, 4)):
        name = f"from-{step}"
        cut_at(whole, step, lab.at(name))
        found = finished(lab, name, *overrides, "train.checkpoint_every=0", plants=plants)
        resumed = f"resumed   after step {step}" in (lab.folder / "err.txt").read_text()
        assert resumed or step == STEPS
        assert_same(found | {"checkpoints": ...}, expected | {"checkpoints": ...})
        shutil.rmtree(lab.at(name))
