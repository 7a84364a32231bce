"""A mean over independent draws, and how far it may be from what it estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Estimate:
    mean: float
    standard_error: float | None
    """The standard deviation of the draws (n - 1) divided by the square root of n; None for a single draw."""
    n: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in analysis.json."""
        return asdict(self)


def estimate(draws: Sequence[float]) -> Estimate:
    """Of at least one draw."""
    n = len(draws)
    return Estimate(fmean(draws), stdev(draws) / math.sqrt(n) if n > 1 else None, n)
