"""What every source yields: documents as pieces of text, so that no document has to fit into memory at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

IDENTITY_CHARACTERS = 16_384
"""Documents that begin with the same text of this length stand on the same side of the split."""


class Piece(NamedTuple):
    """Text of a document; `ends` on its last piece. All but very long .txt files are one piece.

    `excluded`: a row that the configuration leaves out (dataset.exclude), without its text.
    """

    text: str
    ends: bool
    excluded: bool = False


Advance = Callable[[int], None]
"""Told how many bytes of a unit (see `Unit.size`) were read since the last call; feeds the progress bar."""


UNIT_BYTES = 32 * 1024 * 1024
"""Small files are put together up to this size; larger ones are cut, or are a unit each where they cannot be."""
MAX_UNITS = 1024
"""Where a corpus has more, its units become twice as large, and so on."""


@dataclass(frozen=True)
class Unit:
    """Work that is read, tokenised and kept as one: some files, a range of lines, or a part of a data set of the hub.

    Plain values only, since another process may do it: units.py reads the documents of `kind` that `arguments` name.
    `fingerprint` changes whenever a byte of the text may have changed. `size` is what its reading reports in all.
    """

    kind: str
    arguments: dict[str, Any]
    fingerprint: str
    size: int


@dataclass(frozen=True)
class Source:
    """A corpus, or a part of it that has its own weight in a mixture: the units of its documents, in their order.

    `validation` is None where no held-out documents were named.
    """

    name: str
    train: tuple[Unit, ...]
    validation: tuple[Unit, ...] | None = None

    @property
    def fingerprints(self) -> list[list[str]]:
        """What a cache of anything made of this text depends on."""
        return [[unit.fingerprint for unit in units] for units in (self.train, self.validation or ())]


def quiet(units: int) -> None:
    """An `Advance` that nobody watches."""


def held_out(text: str, fraction: float) -> bool:
    """Whether the document that begins with `text` is for validation; neither its place nor the run's seed has a say.

    The same text always falls on the same side: nothing leaks where a corpus grows, holds a document twice or is
    tokenised in another order.
    """
    digest = hashlib.blake2b(text[:IDENTITY_CHARACTERS].encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def split(pieces: Iterator[Piece], fraction: float) -> Iterator[tuple[Piece, bool]]:
    """Each piece with whether its document is held out for validation, which its first piece decides."""
    first, held = True, False
    for piece in pieces:
        if first:
            held = held_out(piece.text, fraction)
        yield piece, held
        first = piece.ends
