"""Balanced draws: those of one step together use every unit as often as every other (sampling.cover=balanced).

Random orders of the n units, one after another, make a stream; draw number i takes its slots i*k to i*k + k - 1. So of
the first draws of a stream, however many, every unit is in as many as every other, or in one more. A draw that lies in
two orders finds no unit twice: the later order begins with units that the draw does not have yet. Nothing in this
knows one unit from another, so every k of them are equally likely in each draw, as in a draw by itself.

Where a draw takes more than half of the units, the stream is that of the ones it leaves out.

R rows, each a stream of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .hashing import counted, further


def balanced(streams: Tensor, numbers: Tensor, n: int, k: int) -> Tensor:
    """(R, k) int64, sorted in each row: draw numbers[r] of stream streams[r], both (R,) int64; k of range(n), k < n.

    A stream is a hash (see hashing.py), of which all in it is a pure function.
    """
    if 2 * k > n:
        return _others(balanced(streams, numbers, n, n - k), n)
    orders, begin = _Orders(streams, n, k), numbers * k
    slots = orders.of(begin // n)
    if n % k:
        slots = torch.cat([slots, orders.of(begin // n + 1)], dim=1)
    own = (begin % n).unsqueeze(1) + torch.arange(k)
    return slots.gather(1, own).sort(dim=1).values


class _Orders:
    """The orders that the streams consist of, with draws of k <= n / 2 in mind."""

    def __init__(self, streams: Tensor, n: int, k: int) -> None:
        self._streams, self._n, self._k = streams, n, k
        self._slots = torch.arange(n)

    def of(self, which: Tensor) -> Tensor:
        """(R, n) int64: order which[r] of row r.

        Units that the draw which comes over from the order before has already go to the end, where only those stand
        behind them that the last draw of this order begins with. Since k <= n / 2 there are enough others.
        """
        order = self._drawn(which)
        if self._n % self._k == 0:  # no draw lies in two
            return order
        used = torch.zeros(order.shape, dtype=torch.bool).scatter(1, self._drawn(which - 1), self._open(which - 1))
        place = used.gather(1, order).long() + 2 * self._open(which)
        place.clamp_(max=2)
        return order.gather(1, place.argsort(dim=1, stable=True))

    def _open(self, which: Tensor) -> Tensor:
        """(R, n) bool: the slots of the last draw of an order, where it goes on in the next."""
        count = ((which + 1) * self._n) % self._k
        return self._slots >= self._n - count.unsqueeze(1)

    def _drawn(self, which: Tensor) -> Tensor:
        """(R, n): an order as it is drawn, uniformly."""
        return counted(further(self._streams, which), self._n).argsort(dim=1)


def _others(taken: Tensor, n: int) -> Tensor:
    """(R, k) of range(n) -> (R, n - k), the others, sorted."""
    left = torch.ones(len(taken), n, dtype=torch.bool).scatter_(1, taken, False)
    return left.nonzero()[:, 1].view(len(taken), n - taken.shape[1])
