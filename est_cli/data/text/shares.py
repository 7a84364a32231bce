"""How a part of the text is chosen, and how that and a window of samples are divided among sources of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from est_cli.data.text.pieces import Limit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

WINDOW = 1000
ORDER_STREAM = 0x70617274
"""Sets the draw of a part's order apart from other uses of a seed."""


def shares(weights: Sequence[float]) -> NDArray[np.int64]:
    """Samples of a window that each source gives: the largest remainders are rounded up. int64 of shape (sources,)."""
    import numpy as np  # not before a configuration is accepted

    exact = WINDOW * np.asarray(weights, dtype=np.float64) / sum(weights)
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")  # of equal remainders the first
    counts[largest[: WINDOW - int(counts.sum())]] += 1
    return counts


def shared_out(whole: Limit, weights: Sequence[float]) -> list[Limit]:
    """What of a part each source gives: as much of it as of a window, rounded down."""

    def share(count: int | None, samples: int) -> int | None:
        return None if count is None else max(1, count * samples // WINDOW)

    return [Limit(*(share(count, samples) for count in whole)) for samples in shares(weights).tolist()]


def drawn(parts: Sequence[T], seed: int) -> list[T]:
    """The same in an order that depends on their number and the seed, and not on what they are."""
    import numpy as np

    order = np.random.Generator(np.random.PCG64([seed, ORDER_STREAM])).permutation(len(parts))
    return [parts[place] for place in order.tolist()]
