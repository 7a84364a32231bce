"""The order of the training samples and the blocks themselves, of one source or of several in given proportions.

Shapes: B blocks of a micro-batch, T tokens of a block.

Of several sources a window of WINDOW samples holds of each exactly its share, in an order drawn from (seed, window).
All is a pure function of (weights, seed, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from est_cli.common.errors import DataError
from est_cli.data.text.shares import WINDOW, shares
from est_cli.data.tokens.stream import Tokens

WINDOW_STREAM = 0x77696E64
"""Sets the draws of windows apart from those of epochs, which are numbered from 0."""

Ints = NDArray[np.int64]


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


class BlockOrder:
    """Which block is the i-th sample of a run: every block once per epoch, in an order drawn from (seed, epoch).

    Of several sources, with `num_blocks` for each, the samples are mixed by `weights` (`Mixture`); blocks are numbered
    one source after the other, and each source has epochs of its own, as many as its share of the run asks for.
    """

    def __init__(self, num_blocks: int | Sequence[int], seed: int, weights: Sequence[float] = ()) -> None:
        self.counts = (num_blocks,) if isinstance(num_blocks, int) else tuple(num_blocks)
        assert min(self.counts) > 0 and seed >= 0, (num_blocks, seed)
        assert len(weights) == len(self.counts) if weights else len(self.counts) == 1, (num_blocks, weights)
        self.seed = seed
        self._firsts = [0, *accumulate(self.counts)]
        self._mixture = Mixture(weights, seed) if weights else None
        self._permutation = lru_cache(maxsize=2 * len(self.counts))(self._draw)

    def blocks(self, first: int, count: int) -> NDArray[np.int64]:
        """Block numbers, int64 of shape (count,), of the samples `first` ... `first + count - 1` counted over the run.

        A pure function of (num_blocks, seed, weights, first, count); may span any number of epochs.
        """
        assert first >= 0 and count >= 0, (first, count)
        if self._mixture is None:
            return self._of_source(0, np.arange(first, first + count))
        sources, numbers = self._mixture.samples(first, count)
        blocks = np.empty(count, dtype=np.int64)
        for source in np.unique(sources).tolist():
            here = sources == source
            blocks[here] = self._firsts[source] + self._of_source(source, numbers[here])
        return blocks

    def _of_source(self, source: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The blocks, counted within their source, of these samples of it."""
        epochs, positions = np.divmod(numbers, self.counts[source])
        blocks = np.empty(len(numbers), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            blocks[here] = self._permutation(source, epoch)[positions[here]]
        return blocks

    def _draw(self, source: int, epoch: int) -> NDArray[np.int64]:
        key = [self.seed, epoch, source] if source else [self.seed, epoch]
        return np.random.Generator(np.random.PCG64(key)).permutation(self.counts[source])


class TokenBlocks:
    """Streams of tokens as blocks of `seq_len`; the tokens after the last whole block of a stream are left out.

    `counts` are the blocks of each stream, which are numbered one stream after the other; where the tokens have
    proportions, in these, and only as many as keep them (`num_blocks`). Raises DataError where a stream is shorter than
    one block; `name` says which set it is.
    """

    def __init__(self, tokens: Tokens, seq_len: int, name: str = "training") -> None:
        self.counts = tuple(len(stream) // seq_len for stream in tokens.streams)
        if min(self.counts) == 0:
            number = self.counts.index(0)
            of = f" of source {number + 1} of dataset.weights" if len(self.counts) > 1 else ""
            raise DataError(
                f"dataset: the {name} set{of} has {len(tokens.streams[number])} tokens, fewer than one block of "
                f"train.seq_len={seq_len}; give more text, or shorter blocks with a smaller train.seq_len"
            )
        self.seq_len = seq_len
        self._streams = tokens.streams
        self._firsts = np.array([0, *accumulate(self.counts)])
        self._order = interleaved(self.counts, tokens.proportions) if tokens.proportions else None
        self.num_blocks = sum(self.counts) if self._order is None else len(self._order)

    def take(self, numbers: NDArray[np.int64]) -> torch.Tensor:
        """The blocks of these numbers, int64 of shape (B, T), read from the disk here."""
        blocks = np.asarray(numbers) if self._order is None else self._order[numbers]
        taken = np.empty((len(blocks), self.seq_len), dtype=np.int64)
        sources = self._firsts.searchsorted(blocks, "right") - 1
        starts = (blocks - self._firsts[sources]) * self.seq_len
        for row, source, start in zip(taken, sources.tolist(), starts.tolist(), strict=True):
            self._streams[source].fill(row, start)
        return torch.from_numpy(taken)
