"""A4: five kills in a row, several of them in the same epoch and some across its end."""

from __future__ import annotations

import random

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either
from tests.faults.victims import PASS, STEP, UPDATE, Golden, assert_continues, killed, resumed_from, work_lost
from tests.lab.lab import STEPS, Lab, Plant, cached_tokens

OFTEN, EVERY = "train.checkpoint_every=2", 2
SEQUENCES = 4
"""Of a step."""
KILLS = 5


def plant(rng: random.Random, step: int, begun: int) -> Plant:
    """A kill in this step: before it, before or after its update, or between its two micro-batches."""
    micro_batch: Plant = ("at", PASS, 2 * (step - begun) + 1, "after")
    at_step: list[Plant] = [("at_step", STEP, step, "before"), ("at_step", STEP, step, "after")]
    return rng.choice([*at_step, ("at_step", UPDATE, step, "before"), ("at_step", UPDATE, step, "after"), micro_batch])


def epoch_of(step: int, blocks: int) -> int:
    return step * SEQUENCES // blocks


@pytest.mark.row("A4")
@pytest.mark.parametrize("seed", range(either(20, 1)))
def test_killed_five_times(lab: Lab, golden: Golden, tally: Tally, seed: int) -> None:
    blocks = cached_tokens(lab.folder / "data")[0]["train_tokens"] // 32
    rng, begun = random.Random(seed), [0]
    for step in steps_to_die_in(rng, blocks):
        killed(lab, "x", plant(rng, step, begun[-1]), OFTEN)
        lost = work_lost(lab.at("x"))
        assert lost <= EVERY
        begun.append(resumed_from(lab.at("x")))
        tally(kills=1, lost=lost)
    epochs = [epoch_of(step, blocks) for step in begun[1:]]
    assert max(epochs.count(epoch) for epoch in epochs) >= 2 and len(set(epochs)) >= 2, epochs
    assert_continues(lab, golden, "x", OFTEN)


def steps_to_die_in(rng: random.Random, blocks: int) -> list[int]:
    """Increasing: the first three in one epoch, far enough apart for other checkpoints, the rest later."""
    epochs = range(epoch_of(STEPS - 6, blocks))
    first = rng.choice(epochs)
    inside = [step for step in range(EVERY + 1, STEPS) if epoch_of(step - EVERY, blocks) == first]
    later = [step for step in range(STEPS) if epoch_of(step - EVERY, blocks) > first]
    return sorted([*rng.sample(inside[::EVERY], 3), *rng.sample(later, KILLS - 3)])
