"""What every source yields: documents as pieces of text, so that no document has to fit into memory at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Piece(NamedTuple):
    """Text of a document; `ends` on its last piece. All but very long .txt files are one piece."""

    text: str
    ends: bool


Advance = Callable[[int], None]
"""Told how many units (see `Source.total`) were read since the last call; feeds the progress bar."""

Pieces = Callable[[Advance], Iterator[Piece]]
"""Starts a fresh pass over the documents, always in the same order."""


@dataclass(frozen=True)
class Source:
    """A corpus that can be read any number of times.

    `fingerprint` changes whenever a byte of the text may have changed. `validation` is None where no held-out
    documents were named. `total` is the size of one pass over everything, in the units of `Advance`, if known.
    """

    name: str
    train: Pieces
    validation: Pieces | None
    fingerprint: str
    total: int | None


def quiet(units: int) -> None:
    """An `Advance` that nobody watches."""


def held_out(index: int, fraction: float) -> bool:
    """Whether document `index` (from 0, in the order of its source) is for validation; the run's seed has no say."""
    digest = hashlib.blake2b(index.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def split(pieces: Iterator[Piece], fraction: float) -> Iterator[tuple[Piece, bool]]:
    """Each piece with whether its document is held out for validation."""
    index = 0
    for piece in pieces:
        yield piece, held_out(index, fraction)
        index += piece.ends
