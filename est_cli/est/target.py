"""The inverse of the ledger: the setting of a schedule that saves a wanted share of the FLOPs. No torch."""

from __future__ import annotations

from collections.abc import Callable


class OutOfReach(ValueError):
    """What is wanted lies outside of `lowest` to `highest`."""

    def __init__(self, lowest: float, highest: float) -> None:
        super().__init__(f"only {lowest:g} to {highest:g} can be reached")
        self.lowest, self.highest = lowest, highest


def solve(wanted: float, value: Callable[[float], float], finest: float, tolerance: float) -> float:
    """The x in [0, 1] whose value(x) is nearest to `wanted`.

    `value` may rise or fall, in steps too (sizes are whole units, boundaries whole steps); changes of x below `finest`
    mean nothing. The search ends at a value that is right to `tolerance`, or where a step of `value` spans what is
    wanted. Raises OutOfReach.
    """
    low, high = 0.0, 1.0
    below, above = value(low) - wanted, value(high) - wanted
    if below > above:
        low, high, below, above = high, low, above, below
    if not below <= 0.0 <= above or below == above:
        raise OutOfReach(below + wanted, above + wanted)
    linear = True
    while abs(high - low) > finest and min(-below, above) > tolerance:
        part = below / (below - above) if linear else 0.5  # a line through both ends finds most at once; halving, all
        linear = not linear
        x = low + part * (high - low)
        if x in (low, high):
            continue
        found = value(x) - wanted
        if found <= 0.0:
            low, below = x, found
        else:
            high, above = x, found
    return low if -below <= above else high


def longest_within(value: Callable[[int], float], limit: float, most: int) -> int:
    """The largest n, at least 0, with value(n) <= `limit` < value(n + 1), of a `value` that rises with n.

    Raises OverflowError where that would be more than `most`.
    """
    low, high, below = 0, 1, 0.0
    while (above := value(high)) <= limit:
        low, high, below = high, 2 * high, above
        if high > most:
            raise OverflowError(f"more than {most}")
    linear = True
    while high - low > 1:
        part = (limit - below) / (above - below) if linear else 0.5  # each value may take as long as a run has steps
        linear = not linear
        middle = min(max(low + int(part * (high - low)), low + 1), high - 1)
        found = value(middle)
        if found <= limit:
            low, below = middle, found
        else:
            high, above = middle, found
    return low
