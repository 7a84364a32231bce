"""A curve as a line of text."""

from __future__ import annotations

from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """One block for each value in [0, 1]; the full block is 1 alone: a complete model is told from nearly one."""
    return "".join(_LEVELS[min(int(value * (len(_LEVELS) - 1)), len(_LEVELS) - 1)] for value in values)
