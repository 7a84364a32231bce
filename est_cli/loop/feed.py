"""What a step reads: its tokens and its subnetworks, pure functions of the step, so they can be made ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from est_cli.est import Subnetwork


@dataclass(frozen=True)
class StepInputs:
    """On the CPU; the tokens in pinned memory where they are sent to a GPU."""

    tokens: Tensor
    """(sequences of the step, T) int64."""
    subnetworks: tuple[Subnetwork, ...]
    """One for the whole step, or under redraw=forward one for each micro-batch."""


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

    def close(self) -> None:
        """Stop making inputs; may be called twice."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
