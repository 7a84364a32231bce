"""Several sources in given proportions: which of them is the i-th sample, and which one of its own.

A window of WINDOW samples holds of each source exactly its share, in an order drawn from (seed, window). All is a pure
function of (weights, seed, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WINDOW = 1000
WINDOW_STREAM = 0x77696E64
"""Sets the draws of windows apart from those of epochs, which are numbered from 0."""

Ints = NDArray[np.int64]


def shares(weights: Sequence[float]) -> Ints:
    """Samples of a window that each source gives: the largest remainders are rounded up. int64 of shape (sources,)."""
    exact = WINDOW * np.asarray(weights, dtype=np.float64) / sum(weights)
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")  # of equal remainders the first
    counts[largest[: WINDOW - int(counts.sum())]] += 1
    return counts


class Mixture:
    """Which source every sample of a run comes from."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.shares = shares(weights)
        self.seed = seed
        self._window = lru_cache(maxsize=4)(self._draw)

    def samples(self, first: int, count: int) -> tuple[Ints, Ints]:
        """The sources of the samples `first` ... `first + count - 1`, and their numbers (from 0) within these."""
        windows, places = np.divmod(np.arange(first, first + count), WINDOW)
        sources, numbers = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        for window in np.unique(windows):
            here = windows == window
            of_window, rank = self._window(int(window))
            sources[here] = of_window[places[here]]
            numbers[here] = window * self.shares[sources[here]] + rank[places[here]]
        return sources, numbers

    def _draw(self, window: int) -> tuple[Ints, Ints]:
        """The sources of a window, and how many samples of the same source come before each in it."""
        generator = np.random.Generator(np.random.PCG64([self.seed, window, WINDOW_STREAM]))
        sources = generator.permutation(np.repeat(np.arange(len(self.shares)), self.shares))
        rank = np.empty_like(sources)
        for source, share in enumerate(self.shares):
            rank[sources == source] = np.arange(share)
        return sources, rank


def interleaved(counts: Sequence[int], weights: Sequence[float]) -> Ints:
    """The blocks of all sources, numbered one source after the other, in an order that keeps the proportions.

    It ends where the first source has no more, so that not only every beginning but the whole is a fair mixture.
    """
    order = np.concatenate([(np.arange(n) + 0.5) / weight for n, weight in zip(counts, weights, strict=True)])
    limit = min(n / weight for n, weight in zip(counts, weights, strict=True))
    numbers = np.argsort(order, kind="stable")
    return numbers[order[numbers] < limit]
