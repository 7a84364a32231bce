"""Confidence intervals of means by Student's t."""

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
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, in a third of the time to import

    return float(stdtrit(degrees, (1 + confidence) / 2))
