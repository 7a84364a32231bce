"""What a step reads: its tokens and its subnetworks, pure functions of the step, so they can be made ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from torch import Tensor

from est_cli.est import IndexGenerator, SamplingRates, Subnetwork
from est_cli.parallel import StepPlan
from est_cli.rank import Rank


@dataclass(frozen=True)
class StepInputs:
    """On the CPU; the tokens in pinned memory where they are sent to a GPU."""

    tokens: Tensor
    """(sequences of the step, T) int64, of this process."""
    plan: StepPlan
    digest: int = 0
    """Of all subnetworks that the step runs anywhere; 0 where nobody asks."""


def own_samples(batch: int, micro_batch: int, rank: Rank) -> np.ndarray:
    """Which of a step's `batch` samples this process takes, int64 of shape (batch / world size,).

    Micro-step j of all processes together reads the j-th piece of the step: W processes with micro-batches of b
    sequences do what one process does with W * b.
    """
    together = micro_batch * rank.world_size
    pieces = np.split(np.arange(batch), range(together, batch, together))
    return np.concatenate([piece.reshape(rank.world_size, -1)[rank.rank] for piece in pieces])


def plan_step(
    generator: IndexGenerator, step: int, rates: SamplingRates, micro_steps: int, rank: Rank
) -> tuple[StepPlan, int]:
    """What a step runs in this process, and a digest of what it runs anywhere (0 for one process: nobody asks)."""
    options = generator.options
    draws = micro_steps if options.redraw == "forward" else 1

    def drawn_by(number: int) -> tuple[Subnetwork, ...]:
        return tuple(generator.draw(step, rates, micro_step, number) for micro_step in range(draws))

    own = drawn_by(rank.rank)
    if rank.world_size == 1:
        return StepPlan(own, micro_steps, None), 0
    everyone = own
    if options.ranks == "independent":
        everyone = tuple(drawn for number in range(rank.world_size) for drawn in drawn_by(number))
    digest = crc32(repr([subnetwork.checksum() for subnetwork in everyone]).encode())
    if len(set(everyone)) == 1:
        return StepPlan(own, micro_steps, None), digest
    every_layer = range(generator.spec.num_layers)
    running = {n for drawn in everyone for n in (every_layer if drawn.layer_idx is None else drawn.layer_idx)}
    return StepPlan(own, micro_steps, frozenset(running)), digest


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
