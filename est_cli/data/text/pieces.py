"""What every source yields: documents as pieces of text, so that no document has to fit into memory at once.

Also: which pieces are held out, and which field of a row of a table or a line of JSON is a document's text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, overload

from est_cli.common.errors import DataError

IDENTITY_CHARACTERS = 16_384
"""Documents that begin with the same text of this length stand on the same side of the split."""

CHATS = "of chats make texts first (tokenizer.apply_chat_template) and name their field in"
"""What to do with rows that have no text but messages; the setting follows."""

TRAINING_KEY = "dataset.text_fields"

MAX_LINE = 64 * 1024 * 1024
"""Bytes of a row: of a line of a .jsonl file, or of the text in any other."""


class Piece(NamedTuple):
    """Text of a document; `ends` on its last piece. All but very long .txt files are one piece.

    Two kinds hold no text and stand for a row that is left out: `excluded` is one that the configuration names
    (dataset.exclude), `bad` tells where one is that has no text, and why (dataset.on_bad_row=skip).
    """

    text: str
    ends: bool
    excluded: bool = False
    bad: str = ""

    @property
    def is_left_out(self) -> bool:
        """Whether it stands for a row that is left out."""
        return self.excluded or bool(self.bad)


class RowError(DataError):
    """What is wrong with one row, without its place; those behind it can be read."""


Labelled = tuple[Piece, bool]
"""A piece, and whether it is held out for validation."""
Advance = Callable[[int], None]
"""Told how many bytes of a unit (see `Unit.size`) were read since the last call; feeds the progress bar."""

UNIT_BYTES = 32 * 1024 * 1024
"""Small files are put together up to this size; larger ones are cut, or are a unit each where they cannot be."""
FEW_BYTES = 32 * 1024 * 1024
"""Less text than this is tokenised in this process: starting others would take longer."""
SMALL_DOCUMENT = 200
"""Bytes: documents have more on the average, packed ones too."""
MAX_UNITS = 1024
"""Where a corpus has more, its units become twice as large, and so on."""


class Limit(NamedTuple):
    """So much of a text is taken, from its beginning: up to the document with which one of these is reached.

    `tokens` are those to train on; of `documents` some are held out. None: no limit.
    """

    tokens: int | None = None
    documents: int | None = None


@dataclass(frozen=True)
class Unit:
    """Work that is read, tokenised and kept as one: some files, a range of lines, or a part of a data set of the hub.

    Plain values only, since another process may do it: units.py reads the documents of `kind` that `arguments` name.
    `fingerprint` changes whenever a byte of the text may have changed. `size` is what its reading reports in all.
    `limit`: only its beginning is meant; `size` is then a guess.
    """

    kind: str
    arguments: dict[str, Any]
    fingerprint: str
    size: int
    limit: Limit | None = None

    @classmethod
    def of(cls, values: dict[str, Any]) -> Unit:
        """From what `asdict` gave, by way of JSON."""
        limit = values.get("limit")
        return cls(**{**values, "limit": None if limit is None else Limit(*limit)})


class LaterUnits(Sequence[Unit]):
    """Units of these `sizes`, each made by its number when it is first asked for: before, its files are not opened."""

    def __init__(self, sizes: Sequence[int], make: Callable[[int], Unit]) -> None:
        self.sizes = sizes
        self._made = lru_cache(maxsize=None)(make)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, number: int) -> Unit: ...
    @overload
    def __getitem__(self, number: slice) -> list[Unit]: ...
    def __getitem__(self, number: int | slice) -> Unit | list[Unit]:
        if isinstance(number, slice):
            return [self._made(each) for each in range(len(self))[number]]
        return self._made(range(len(self))[number])


@dataclass(frozen=True)
class TextSource:
    """A corpus, or a part of it that has its own weight in a mixture: the units of its documents, in their order.

    `validation` is None where no held-out documents were named. `part`: so much of `train` is taken, whose units are
    then LaterUnits. `revisions`: the commit of each of its data sets of the hub, None of a folder.
    """

    name: str
    train: Sequence[Unit]
    validation: tuple[Unit, ...] | None = None
    part: Limit | None = None
    revisions: tuple[str | None, ...] = ()

    @property
    def beginning(self) -> Sequence[Unit]:
        """The units that a tokenizer may be trained on: of a part those that are needed in any case."""
        if not isinstance(self.train, LaterUnits) or self.part is None:
            return self.train
        tokens, documents = self.part
        surely = min(tokens or math.inf, SMALL_DOCUMENT * (documents or math.inf), FEW_BYTES)
        before = itertools.accumulate(self.train.sizes, initial=0)
        return self.train[: sum(1 for size in itertools.islice(before, len(self.train)) if size < surely)]

    @property
    def fingerprints(self) -> list[Any]:
        """What a tokenizer that is trained on this text depends on."""
        prints = [[unit.fingerprint for unit in units] for units in (self.beginning, self.validation or ())]
        return prints if self.part is None else [*prints, list(self.part)]


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
    `articles`: rows are lines of wikitext. `key`: the setting that `fields` are from. `skip_bad_rows`: rows without
    text are passed over, and are no error.
    """

    fields: Sequence[str]
    exclude: Sequence[str] = ()
    separator: str = ""
    articles: bool = False
    key: str = TRAINING_KEY
    skip_bad_rows: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides which documents there are, in plain values: what was always there, and what is set."""
        settings: dict[str, Any] = {"fields": list(self.fields), "exclude": list(self.exclude)}
        others = {
            "separator": self.separator,
            "articles": self.articles,
            "skip_bad_rows": self.skip_bad_rows,
        }
        return settings | {name: value for name, value in others.items() if value}

    @property
    def deciding(self) -> list[str]:
        """The columns that `exclude` looks into."""
        return [entry.partition("=")[0].partition(".")[0] for entry in self.exclude]

    def columns(self, names: Sequence[str], where: str) -> list[str]:
        """Those of the columns `names` that have to be read: that of the text first. Raises DataError."""
        try:
            text = self.present(names)
        except RowError as error:
            raise DataError(f"{where}: {error}") from error
        return [text, *(name for name in names if name != text and name in self.deciding)]

    def present(self, names: Iterable[str]) -> str:
        """The first of `fields` among `names`. Raises RowError."""
        names = list(names)
        for field in self.fields:
            if field in names:
                return field
        have = ", ".join(repr(name[:40]) for name in names[:10]) or "none"
        other = "; it holds ids of files, and not their text" if "blob_id" in names else ""
        other += f"; {CHATS} {self.key}" if {"messages", "conversations"}.intersection(names) else ""
        wanted = " or ".join(self.fields)
        raise RowError(f"no field {wanted} ({self.key}); the fields here are: {have}{other}")


def document(row: Any, wanted: Wanted, where: object) -> Piece:
    """One row as a document; `row` may be the RowError that a reader has in its place.

    Raises DataError, starting with `where` as text, unless rows without text are passed over.
    """
    try:
        return _document(row, wanted)
    except RowError as error:
        if wanted.skip_bad_rows:
            return Piece("", ends=True, bad=f"{where}: {error}")
        way_out = "; dataset.on_bad_row=skip passes over such rows" if wanted.key == TRAINING_KEY else ""
        raise DataError(f"{where}: {error}{way_out}") from error


def _document(row: Any, wanted: Wanted) -> Piece:
    if isinstance(row, RowError):
        raise row
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, this one is of type {type(row).__name__}")
    if any(_has(row, entry) for entry in wanted.exclude):
        return Piece("", ends=True, excluded=True)
    text = row[wanted.present(row)]
    if not isinstance(text, str):
        chats = f"; {CHATS} {wanted.key}" if isinstance(text, list) else ""
        raise RowError(f"the text must be a string, it is of type {type(text).__name__}{chats}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise RowError("the text has half a surrogate pair, which is no Unicode character") from error
    if size > MAX_LINE:
        raise RowError(f"the text is longer than {MAX_LINE} bytes")
    return Piece(text, ends=True)


def _has(row: dict[str, Any], entry: str) -> bool:
    path, _, value = entry.partition("=")
    found: Any = row
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return value == (found if isinstance(found, str) else json.dumps(found, default=str))
