"""The cells of an analysis: independent numbers, shared among the processes and put together again.

A cell is computed by one process alone, so the sum over all of them, each with zeros in place of the others' cells, is
exactly what a single process finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from est_cli.distributed import Group

Cells = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    group: Group
    advance: Callable[[float], None]
    """Told after each cell what it cost, in forward passes of a batch, over all processes."""

    def own(self, count: int) -> range:
        """This process's stretch of the cells 0 ... count - 1; neighbours, which have much in common, stay together."""
        rank, size = self.group.rank.rank, self.group.rank.world_size
        return range(count * rank // size, count * (rank + 1) // size)

    def gathered(self, cells: Cells) -> Cells:
        """All processes' cells, in each of them."""
        return np.array(self.group.sum(cells.ravel().tolist())).reshape(cells.shape)

    def done(self, cost: float) -> None:
        self.advance(cost * self.group.rank.world_size)
