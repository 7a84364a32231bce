"""The documents of one unit to one file of tokens: those to train on, then those held out, each with end-of-text.

`document_tokens` is the one way from text to tokens: est-train and est-eval both read what it gives.

Light: worker processes import this module, and neither torch nor transformers.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from est_cli.data.text.pieces import Advance, Labelled, Limit, Piece, Unit, split
from est_cli.data.text.units import read_unit
from est_cli.data.tokens.cuts import Cutter, Part, tokenizer_errors
from est_cli.storage.digest import digest_file

TOKENS = "tokens.bin"
DOCUMENTS = "documents.bin"
"""A digest of 8 bytes for each document but those held out; where validation is named, overlap.py compares them."""
ENDS = "ends.bin"
"""How many tokens there are up to the end of each document, in the order of TOKENS; little-endian uint64."""
BATCH_CHARACTERS = 1_000_000
"""Text that is tokenised at once."""
LINE_CHARACTERS = 65_536
"""Of the parts that `cut: lines` makes."""
FEW_TOKENS = 20
"""A document of fewer is a short one: often a line where a text was meant."""
BAD_PLACES = 20
"""Rows without text that are told one by one."""
BAD_CHARACTERS = 500
"""Of what is told of each."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer that takes all text as plain text, its end-of-text id, and the type that its ids are stored in.

    `cut`: how long documents are cut, as dataset.cut says. `limit_s`: CPU time for a batch, after which the process is
    killed; 0: no limit.
    """

    tokenizer: Tokenizer
    end: int
    dtype: str
    cut: str = "exact"
    limit_s: float = 0.0

    @cached_property
    def cutter(self) -> Cutter:
        return Cutter(self.tokenizer)

    @cached_property
    def end_text(self) -> str:
        """How the end-of-text token is written."""
        return str(self.tokenizer.id_to_token(self.end))


@dataclass
class Counts:
    """What the tokens of a unit hold. `blank` documents, without any visible character, were left out.

    So were `excluded` ones (dataset.exclude) and `bad` rows, which have no text (dataset.on_bad_row); `bad_places`
    tells of the first where they are and what is wrong. `short` documents have fewer than FEW_TOKENS tokens. The text
    has `bytes` in UTF-8; in it end-of-text is `spelled` so many times, as plain text.
    """

    train_tokens: int = 0
    validation_tokens: int = 0
    documents: int = 0
    blank: int = 0
    excluded: int = 0
    short: int = 0
    bytes: int = 0
    spelled: int = 0
    bad: int = 0
    bad_places: list[str] = field(default_factory=list)


class LookedAt:
    """How much of a unit was read by now, which is up to a batch more than what was tokenised."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._began = advance, time.monotonic()
        self._files = self._text = 0

    def pieces(self, unit: Unit) -> Iterator[Piece]:
        """The unit's documents."""
        for piece in read_unit(unit, self._read):
            self._text += len(piece.text.encode())
            yield piece

    def told(self) -> dict[str, Any]:
        """Bytes of its files (as far as these say how far they are read), of their text in UTF-8, and seconds."""
        return {"read": self._files, "read_text": self._text, "seconds": time.monotonic() - self._began}

    def _read(self, size: int) -> None:
        self._files += size
        self._advance(size)


class Encoded(NamedTuple):
    """Ids of a document or a part of one, end-of-text behind its last; `held` out for validation."""

    ids: list[int]
    ends: bool
    held: bool


def write_tokens(place: Path, unit: Unit, encoder: Encoder, fraction: float, advance: Advance) -> dict[str, Any]:
    """Write `place`/tokens.bin, ends.bin and documents.bin; returns counts, dtype and the first one's digest.

    `fraction` of the documents is held out. Of a unit with a limit also returns what was looked at. Raises DataError.
    """
    looked = LookedAt(advance)
    dtype, counts, held_path = np.dtype(encoder.dtype), Counts(), place / "held.bin"
    ends: dict[bool, list[int]] = {False: [], True: []}
    document = blake2b(digest_size=8)
    with (
        (place / TOKENS).open("wb") as train,
        held_path.open("wb") as held,
        (place / DOCUMENTS).open("wb") as documents,
    ):
        for found in document_tokens(split(looked.pieces(unit), fraction), encoder, counts):
            file, data = held if found.held else train, np.array(found.ids, dtype=dtype).tobytes()
            file.write(data)
            if found.ends:
                ends[found.held].append(file.tell() // dtype.itemsize)
            if not found.held:
                document.update(data)
                if found.ends:
                    documents.write(document.digest())
                    document = blake2b(digest_size=8)
            if found.ends and unit.limit and _reached(unit.limit, train.tell() // dtype.itemsize, ends):
                break
        counts.train_tokens = train.tell() // dtype.itemsize
        counts.validation_tokens = held.tell() // dtype.itemsize
    _append(place / TOKENS, held_path)
    all_ends = [*ends[False], *(counts.train_tokens + end for end in ends[True])]
    np.array(all_ends, dtype="<u8").tofile(place / ENDS)
    made = {**asdict(counts), "dtype": dtype.str, "sha256": digest_file(place / TOKENS)}
    return made if unit.limit is None else made | {"documents": len(all_ends), **looked.told()}


def _reached(limit: Limit, tokens: int, ends: dict[bool, list[int]]) -> bool:
    documents = sum(map(len, ends.values()))
    return tokens >= (limit.tokens or math.inf) or documents >= (limit.documents or math.inf)


def document_tokens(pieces: Iterator[Labelled], encoder: Encoder, counts: Counts) -> Iterator[Encoded]:
    """The tokens of documents that come in pieces, without those that are left out; `counts` is brought up to date.

    Raises DataError where the tokenizer cannot read a text.
    """
    cut = encoder.cutter.parts if encoder.cut == "exact" else _cut_at_lines
    tokens = 0
    for batch in _watched(_batches(cut(_visible(pieces, counts))), encoder.limit_s):
        for part, ids in zip(batch, _ids(batch, encoder), strict=True):
            tokens += len(ids)
            counts.bytes += len(part.text.encode())
            counts.spelled += part.text.count(encoder.end_text)
            if part.ends:
                counts.short += tokens < FEW_TOKENS
                tokens = 0
                ids.append(encoder.end)
            yield Encoded(ids, part.ends, part.held)


def _append(path: Path, tail: Path) -> None:
    with path.open("ab") as target, tail.open("rb") as rest:
        shutil.copyfileobj(rest, target, 1 << 20)
    tail.unlink()


def _visible(pieces: Iterator[Labelled], counts: Counts) -> Iterator[Labelled]:
    """Leave out blank and excluded documents and bad rows, and count all kinds."""
    first = True
    for piece, held in pieces:
        if piece.excluded:
            counts.excluded += 1
        elif piece.bad:
            counts.bad += 1
            if len(counts.bad_places) < BAD_PLACES:
                counts.bad_places.append(piece.bad[:BAD_CHARACTERS])
        elif first and piece.ends and (not piece.text or piece.text.isspace()):
            counts.blank += 1
        else:
            counts.documents += piece.ends
            first = piece.ends
            yield piece, held


def _cut_at_lines(pieces: Iterator[Labelled]) -> Iterator[Part]:
    """As before there was `cut: exact`: at the end of a line, or else before a word, where one ends in time.

    The tokenizer takes every part for a text of its own.
    """
    for piece, held in pieces:
        text, start = piece.text, 0
        while len(text) - start > LINE_CHARACTERS:
            window = start + 1, start + LINE_CHARACTERS
            stop = text.rfind("\n", *window) + 1 or max(text.rfind(" ", *window), 0) or window[1]
            yield Part(text[start:stop], True, False, held)
            start = stop
        yield Part(text[start:], True, piece.ends, held)


def _ids(batch: Sequence[Part], encoder: Encoder) -> list[list[int]]:
    """The ids of each part."""
    found: dict[int, list[int]] = {}
    for first in (True, False):
        numbers = [number for number, part in enumerate(batch) if part.first is first]
        if numbers:
            with tokenizer_errors():
                reader = encoder.tokenizer if first else encoder.cutter.rest
                texts = [batch[number].text for number in numbers]
                encodings = reader.encode_batch_fast(texts, add_special_tokens=False)
            found |= {number: list(encoding.ids) for number, encoding in zip(numbers, encodings, strict=True)}
    return [found[number] for number in range(len(batch))]


def _watched(batches: Iterator[list[Part]], limit_s: float) -> Iterator[list[Part]]:
    """The same; the process is killed, by SIGPROF, where one takes so many seconds of CPU time until the next.

    Nothing else stops what runs in native code.
    """
    try:
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        for batch in batches:
            yield batch
            signal.setitimer(signal.ITIMER_PROF, limit_s)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _batches(parts: Iterator[Part]) -> Iterator[list[Part]]:
    batch: list[Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
