"""Counts in a sentence, and times. Standard library only."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 step`, `1,200 steps`; `many`: the plural, where it is more than an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def hours_minutes(seconds: float | None) -> str:
    """`1:02:03` or `02:03`; `--:--` for None."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"
