"""What a step reads is a function of the step, so it can be made ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """Makes the inputs of the steps; with `ahead`, those of the next step in a thread while this one runs."""

    def __init__(self, make: Callable[[int], T], ahead: bool) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "feed") if ahead else None
        self._next: tuple[int, Future[T]] | None = None

    def take(self, step: int, last: bool) -> T:
        """The inputs of `step`; after the `last` one nothing is made ahead. Raises what making them raised.

        What was made ahead for another step is dropped: the run has gone back.
        """
        made = self._next[1].result() if self._next is not None and self._next[0] == step else self._make(step)
        self._next = None if last or self._thread is None else (step + 1, self._thread.submit(self._make, step + 1))
        return made

    def peek(self, step: int) -> T:
        """The inputs of the step after the one that was taken last, which take() will give then."""
        if self._next is None or self._next[0] != step:
            future: Future[T] = Future()
            future.set_result(self._make(step))
            self._next = step, future
        return self._next[1].result()

    def again(self, step: int) -> T:
        """The inputs of `step`, made anew."""
        return self._make(step)

    def close(self) -> None:
        """Stop making inputs; may be called twice."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
