"""What always runs complete: the language of `sampling.protect`, and what it means in a model. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

KINDS = ("layers", "heads", "columns")
ENTRY_WORDS = "a layer (0, -1, first, last) or a range of them (0-3), alone or as layers:0, heads:0-3 or columns:last"
_ENTRY = re.compile(r"(?:(layers|heads|columns):)?(?:(first|last)|(-?\d{1,6})(?:-(-?\d{1,6}))?)")
_NAMED = {"first": 0, "last": -1}


class Protected(NamedTuple):
    """By kind, the layers (numbers from 0) in which it is never sampled."""

    layers: frozenset[int] = frozenset()
    """They always run."""
    heads: frozenset[int] = frozenset()
    """All their heads run, where they run."""
    columns: frozenset[int] = frozenset()


def is_entry(entry: object) -> bool:
    """Whether it can stand in `sampling.protect`, whatever the model."""
    return isinstance(entry, int | str) and not isinstance(entry, bool) and _ENTRY.fullmatch(str(entry)) is not None


def kinds_of(entry: int | str) -> tuple[str, ...]:
    """What an entry protects: one of KINDS where it names it, else all of them."""
    kind, colon, _ = str(entry).partition(":")
    return (kind,) if colon else KINDS


@lru_cache
def protected(entries: Sequence[int | str], num_layers: int, ends: bool = False) -> Protected:
    """What `entries` mean in a model of so many layers; with `ends` its first and its last layer always run, too.

    Raises ValueError where there is no such layer.
    """
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for entry in entries:
        for kind in kinds_of(entry):
            found[kind].update(_numbers(entry, num_layers))
    found["layers"].update({0, num_layers - 1} if ends else ())
    return Protected(*(frozenset(found[kind]) for kind in KINDS))


def _numbers(entry: int | str, num_layers: int) -> range:
    matched = _ENTRY.fullmatch(str(entry))
    assert matched is not None, "refused before"
    _, name, first, last = matched.groups()
    ends = [_NAMED[name]] * 2 if name else [int(first), int(last or first)]
    for end in ends:
        if not -num_layers <= end < num_layers:
            raise ValueError(
                f"sampling.protect: {entry}: the model has no layer {end}; its {num_layers} layers are 0 to "
                f"{num_layers - 1}, or from the last on -1 to -{num_layers}"
            )
    begin, end = (end % num_layers for end in ends)
    if begin > end:
        raise ValueError(
            f"sampling.protect: {entry}: layer {begin} comes after layer {end} in a model of {num_layers} layers; "
            "write the lower one first"
        )
    return range(begin, end + 1)
