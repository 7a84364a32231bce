"""The order of the training blocks, and the blocks themselves.

Shapes: B blocks of a micro-batch, T tokens of a block.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from est_cli.errors import DataError


class BlockOrder:
    """Which block is the i-th sample of a run: every block once per epoch, in an order drawn from (seed, epoch)."""

    def __init__(self, num_blocks: int, seed: int) -> None:
        assert num_blocks > 0 and seed >= 0, (num_blocks, seed)
        self.num_blocks = num_blocks
        self.seed = seed
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def blocks(self, first: int, count: int) -> np.ndarray:
        """Block numbers, int64 of shape (count,), of the samples `first` ... `first + count - 1` counted over the run.

        A pure function of (num_blocks, seed, first, count); may span any number of epochs.
        """
        assert first >= 0 and count >= 0, (first, count)
        epochs, positions = np.divmod(np.arange(first, first + count), self.num_blocks)
        numbers = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            numbers[here] = self._permutation(int(epoch))[positions[here]]
        return numbers

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.num_blocks)


class TokenBlocks:
    """A stream of tokens as blocks of `seq_len`; the tokens after the last whole block are left out.

    Raises DataError where the stream is shorter than one block; `name` says which set it is.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, name: str = "training") -> None:
        if len(tokens) < seq_len:
            raise DataError(
                f"dataset: the {name} set has {len(tokens)} tokens, fewer than one block of train.seq_len={seq_len}; "
                "give more text or shorter blocks"
            )
        self.num_blocks = len(tokens) // seq_len
        self.seq_len = seq_len
        self._blocks = tokens[: self.num_blocks * seq_len].reshape(self.num_blocks, seq_len)

    def take(self, numbers: np.ndarray) -> torch.Tensor:
        """The blocks of these numbers, int64 of shape (B, T), read from the disk here."""
        return torch.from_numpy(self._blocks[numbers].astype(np.int64))
