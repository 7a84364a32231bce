"""What every source yields: documents as pieces of text, so that no document has to fit into memory at once.

Also: which pieces are held out, and which field of a row of a table or a line of JSON is a document's text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from est_cli.common.errors import DataError

IDENTITY_CHARACTERS = 16_384
"""Documents that begin with the same text of this length stand on the same side of the split."""


MAX_LINE = 64 * 1024 * 1024
"""Bytes of a row: of a line of a .jsonl file, or of the text in any other."""


class Piece(NamedTuple):
    """Text of a document; `ends` on its last piece. All but very long .txt files are one piece.

    `excluded`: a row that the configuration leaves out (dataset.exclude), without its text.
    """

    text: str
    ends: bool
    excluded: bool = False


Labelled = tuple[Piece, bool]
"""A piece, and whether it is held out for validation."""
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
class TextSource:
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


def split(pieces: Iterator[Piece], fraction: float) -> Iterator[Labelled]:
    """Each piece with whether its document is held out for validation, which its first piece decides."""
    first, held = True, False
    for piece in pieces:
        if first:
            held = held_out(piece.text, fraction)
        yield piece, held
        first = piece.ends


@dataclass(frozen=True)
class Wanted:
    """`fields`: the first of these that a row has is its text. `exclude`: rows with one of these values are left out.

    An entry of `exclude` is `field=value`; dots in the field lead into nested objects. A value that is no string is
    compared as JSON writes it (3, true, null). `separator`: what ends a document within a .txt file, if anything does.
    `articles`: rows are lines of wikitext. `key`: the setting that `fields` are from.
    """

    fields: Sequence[str]
    exclude: Sequence[str] = ()
    separator: str = ""
    articles: bool = False
    key: str = "dataset.text_fields"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides which documents there are, in plain values: what was always there, and what is set."""
        settings: dict[str, Any] = {"fields": list(self.fields), "exclude": list(self.exclude)}
        others = {"separator": self.separator, "articles": self.articles}
        return settings | {name: value for name, value in others.items() if value}

    @property
    def deciding(self) -> list[str]:
        """The columns that `exclude` looks into."""
        return [entry.partition("=")[0].partition(".")[0] for entry in self.exclude]

    def columns(self, names: Sequence[str], where: str) -> list[str]:
        """Those of the columns `names` that have to be read: that of the text first. Raises DataError."""
        text = self.present(names, where)
        return [text, *(name for name in names if name != text and name in self.deciding)]

    def present(self, names: Iterable[str], where: str) -> str:
        """The first of `fields` among `names`. Raises DataError."""
        names = list(names)
        for field in self.fields:
            if field in names:
                return field
        have = ", ".join(repr(name[:40]) for name in names[:10]) or "none"
        raise DataError(f"{where}: no field {' or '.join(self.fields)} ({self.key}); the fields here are: {have}")


def document(row: Any, wanted: Wanted, where: str) -> Piece:
    """One row as a document. Raises DataError, starting with `where`."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, this one is of type {type(row).__name__}")
    if any(_has(row, entry) for entry in wanted.exclude):
        return Piece("", ends=True, excluded=True)
    text = row[wanted.present(row, where)]
    if not isinstance(text, str):
        raise DataError(f"{where}: the text must be a string, it is of type {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text has half a surrogate pair, which is no Unicode character") from error
    if size > MAX_LINE:
        raise DataError(f"{where}: the text is longer than {MAX_LINE} bytes")
    return Piece(text, ends=True)


def _has(row: dict[str, Any], entry: str) -> bool:
    path, _, value = entry.partition("=")
    found: Any = row
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return value == (found if isinstance(found, str) else json.dumps(found, default=str))
