"""Samples of a text whose parts are tokenised ahead of the run: their order, and the blocks themselves.

Shapes: B blocks, T tokens of a block. A part is cut into blocks by itself. Of each source the first epoch goes through
the parts as they follow each other, within each in an order drawn from (seed, source, part): a sample depends on no
part that comes later. From the second epoch on all blocks of the source are mixed, as BlockOrder does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from est_cli.data.blocks import Mixture
from est_cli.data.tokens.ahead import TextParts

PART_STREAM = 0x70617274
"""Sets the draws of parts apart from those of epochs and windows."""
SOURCE = 1 << 40
"""Blocks of source n are numbered from n * SOURCE on: nobody knows yet how many there are of the one before."""

Ints = NDArray[np.int64]


@dataclass
class _Source:
    """The blocks of one source, as far as its parts are known."""

    number: int
    seed: int
    parts: int
    firsts: list[int] = field(default_factory=lambda: [0])
    """The first block of each part that is known, and of the next one."""

    @property
    def is_whole(self) -> bool:
        return len(self.firsts) > self.parts

    def part_of(self, sample: int) -> int:
        """The part that a sample needs: all before it are needed to know which it is."""
        if sample >= self.firsts[-1]:
            return min(len(self.firsts), self.parts) - 1
        return int(np.searchsorted(self.firsts, sample, "right")) - 1

    def blocks(self, samples: Ints) -> Ints:
        """The blocks of these samples, counted within the source."""
        first_epoch = samples < self.firsts[-1]
        found = np.empty_like(samples)
        starts = np.array(self.firsts)
        parts = starts.searchsorted(samples, "right") - 1
        for part in np.unique(parts[first_epoch]).tolist():
            here = first_epoch & (parts == part)
            found[here] = starts[part] + self._of_part(part)[samples[here] - starts[part]]
        epochs, places = np.divmod(samples, self.firsts[-1])
        for epoch in np.unique(epochs[~first_epoch]).tolist():
            assert self.is_whole, "a sample of a part that is not there"
            here = epochs == epoch
            found[here] = self._of_epoch(epoch)[places[here]]
        return found

    def __post_init__(self) -> None:
        self._of_part = lru_cache(maxsize=4)(self._draw_part)
        self._of_epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_part(self, part: int) -> Ints:
        count = self.firsts[part + 1] - self.firsts[part]
        return np.random.Generator(np.random.PCG64([self.seed, self.number, part, PART_STREAM])).permutation(count)

    def _draw_epoch(self, epoch: int) -> Ints:
        key = [self.seed, epoch, self.number] if self.number else [self.seed, epoch]
        return np.random.Generator(np.random.PCG64(key)).permutation(self.firsts[-1])


class PartOrder:
    """Which block is the i-th sample of a run, and its tokens: BlockOrder and TokenBlocks of a text that grows.

    A pure function of (text, seed, weights, seq_len, i), whenever the parts came. Parts count from when they are
    admitted, which processes of a run do together.
    """

    def __init__(self, texts: Sequence[TextParts], seq_len: int, seed: int, weights: Sequence[float] = ()) -> None:
        self.texts, self.seq_len = texts, seq_len
        self._sources = [_Source(number, seed, len(text.units)) for number, text in enumerate(texts)]
        self._mixture = Mixture(weights, seed) if len(texts) > 1 else None

    def admit(self, counts: Sequence[int]) -> None:
        """Of each source so many parts, from the first on, are there."""
        for source, text, count in zip(self._sources, self.texts, counts, strict=True):
            for part in range(len(source.firsts) - 1, count):
                source.firsts.append(source.firsts[-1] + len(text.stream(part)) // self.seq_len)

    @property
    def admitted(self) -> list[int]:
        """How many parts of each source are."""
        return [len(source.firsts) - 1 for source in self._sources]

    def needed(self, first: int, count: int) -> list[int]:
        """The last part of each source that the samples `first` ... `first + count - 1` need."""
        if self._mixture is None:
            return [self._sources[0].part_of(first + count - 1)]
        sources, numbers = self._mixture.samples(first, count)
        lasts = [numbers[sources == source.number].max(initial=0) for source in self._sources]
        return [source.part_of(int(last)) for source, last in zip(self._sources, lasts, strict=True)]

    def blocks(self, first: int, count: int) -> Ints:
        """Block numbers, int64 of shape (count,), of these samples, all of whose parts were admitted."""
        samples = np.arange(first, first + count)
        if self._mixture is None:
            return self._sources[0].blocks(samples)
        sources, numbers = self._mixture.samples(first, count)
        blocks = np.empty(count, dtype=np.int64)
        for source in self._sources:
            here = sources == source.number
            blocks[here] = source.number * SOURCE + source.blocks(numbers[here])
        return blocks

    def take(self, numbers: Ints) -> torch.Tensor:
        """The blocks of these numbers, int64 of shape (B, T), read from the disk here."""
        taken = np.empty((len(numbers), self.seq_len), dtype=np.int64)
        for row, number in zip(taken, np.asarray(numbers).tolist(), strict=True):
            source, block = divmod(number, SOURCE)
            firsts = self._sources[source].firsts
            part = int(np.searchsorted(firsts, block, "right")) - 1
            self.texts[source].stream(part).fill(row, (block - firsts[part]) * self.seq_len)
        return torch.from_numpy(taken)
