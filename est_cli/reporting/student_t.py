"""Confidence intervals of means by Student's t. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

CONFIDENCE = 0.95


def half_width(sd: float, n: int) -> float:
    """Half of the confidence interval of a mean of `n` > 1 values with the standard deviation `sd` (n - 1)."""
    return t_quantile(n - 1) * sd / math.sqrt(n)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The confidence interval of the mean; None of fewer than two values, which tell nothing of it."""
    if len(values) < 2:
        return None
    mean, half = fmean(values), half_width(stdev(values), len(values))
    return mean - half, mean + half


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t that a Student-t variable with so many degrees of freedom stays within, in size, with this probability."""
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(high)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) * tan(angle)): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sin, cos = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cos if odd else 1.0
    total = 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos * cos * (k - 1) / k
    return 2 / math.pi * (angle + sin * total) if odd else sin * total
