"""What a step reads: its tokens and its subnetworks, pure functions of the step, so they can be made ahead of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from torch import Tensor

from est_cli.common.rank import Rank
from est_cli.config.micro_batch import pieces
from est_cli.distributed import StepPlan
from est_cli.est import IndexGenerator, SamplingRates, Subnetwork
from est_cli.est.index import sizes_of
from est_cli.est.sizes import Ran, SampleSizes


@dataclass(frozen=True)
class StepInputs:
    """On the CPU; the tokens in pinned memory where they are sent to a GPU."""

    tokens: Tensor
    """(sequences of the step, T) int64, of this process."""
    plan: StepPlan
    digest: int = 0
    """Of all subnetworks that the step runs anywhere; 0 where nobody asks."""
    ran: Ran = ()
    """What the step runs, over all processes."""


def own_samples(batch: int, micro_batch: int, rank: Rank) -> np.ndarray:
    """Which of a step's `batch` samples this process takes, int64 of shape (batch / world size,).

    Micro-step j of all processes together reads the j-th piece of the step: W processes with micro-batches of b
    sequences do what one process does with W * b.
    """
    ends = np.cumsum(pieces(batch, micro_batch, rank.world_size))
    parts = np.split(np.arange(batch), ends[:-1])
    return np.concatenate([part.reshape(rank.world_size, -1)[rank.rank] for part in parts])


def plan_step(
    generator: IndexGenerator, step: int, rates: SamplingRates, sequences: Sequence[int], rank: Rank
) -> tuple[StepPlan, int, Ran]:
    """What a step runs in this process, a digest of what it runs anywhere (0 for one process: nobody asks), and how
    much that is. `sequences`: of each micro-step, over all processes."""
    options, micro_steps = generator.options, len(sequences)
    draws = micro_steps if options.redraw == "forward" else 1

    def drawn_by(number: int) -> tuple[Subnetwork, ...]:
        return tuple(generator.draw(step, rates, micro_step, number) for micro_step in range(draws))

    own = drawn_by(rank.rank)
    apart = options.ranks == "independent" and rank.world_size > 1
    everyone = [drawn_by(number) for number in range(rank.world_size)] if apart else [own]
    ran = what_ran(generator, everyone, sequences)
    if rank.world_size == 1:
        return StepPlan(own, micro_steps, None), 0, ran
    anywhere = [subnetwork for drawn in everyone for subnetwork in drawn]
    digest = crc32(repr([subnetwork.checksum() for subnetwork in anywhere]).encode())
    if len(set(anywhere)) == 1:
        return StepPlan(own, micro_steps, None), digest, ran
    every_layer = range(generator.spec.num_layers)
    running = {n for drawn in anywhere for n in (every_layer if drawn.layer_idx is None else drawn.layer_idx)}
    return StepPlan(own, micro_steps, frozenset(running), anywhere), digest, ran


def what_ran(generator: IndexGenerator, everyone: Sequence[Sequence[Subnetwork]], sequences: Sequence[int]) -> Ran:
    """Count the sequences that a step sends through subnetworks of each size.

    `everyone`: by process (one entry, where all run the same) what it runs, one for all micro-steps or one for each.
    """
    counts: Counter[SampleSizes] = Counter()
    for drawn in everyone:
        of_each = sequences if len(drawn) > 1 else (sum(sequences),)
        for subnetwork, count in zip(drawn, of_each, strict=True):
            counts[sizes_of(generator.spec, subnetwork)] += count // len(everyone)
    return tuple(counts.items())


class Feed:
    """Makes the inputs of the steps; with `ahead`, those of the next step in a thread while this one runs."""

    def __init__(self, make: Callable[[int], StepInputs], ahead: bool) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "feed") if ahead else None
        self._next: tuple[int, Future[StepInputs]] | None = None

    def take(self, step: int, last: bool) -> StepInputs:
        """The inputs of `step`; after the `last` one nothing is made ahead. Raises what making them raised."""
        if self._thread is None:
            return self._make(step)
        made = self._next[1].result() if self._next is not None and self._next[0] == step else self._make(step)
        self._next = None if last else (step + 1, self._thread.submit(self._make, step + 1))
        return made

    def digest_of(self, step: int) -> int:
        """StepInputs.digest of `step`, made anew."""
        return self._make(step).digest

    def close(self) -> None:
        """Stop making inputs; may be called twice."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
