"""Counts in a sentence. Standard library only."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 step`, `1,200 steps`; `many`: the plural, where it is more than an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
