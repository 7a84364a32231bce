"""The documents of one unit to one file of tokens: those to train on, then those held out, each with end-of-text.

Light: worker processes import this module, and neither torch nor transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from est_cli.data.pieces import Advance, Piece, Unit, split
from est_cli.data.units import read_unit
from est_cli.storage.digest import digest_file

TOKENS = "tokens.bin"
DOCUMENTS = "documents.bin"
"""A digest of 8 bytes for each document but those held out; where validation is named, overlap.py compares them."""
BATCH_CHARACTERS = 1_000_000
"""Text that is tokenised at once."""
PIECE_CHARACTERS = 65_536
"""Longer text is cut: tokenising takes more than a hundred times the memory of a single text."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer that takes all text as plain text, its end-of-text id, and the type that its ids are stored in."""

    tokenizer: Tokenizer
    end: int
    dtype: str


@dataclass
class Counts:
    """What the tokens of a unit hold. `blank` documents, without any visible character, were left out.

    So were `excluded` ones (dataset.exclude).
    """

    train_tokens: int = 0
    validation_tokens: int = 0
    documents: int = 0
    blank: int = 0
    excluded: int = 0


Labelled = tuple[Piece, bool]
"""A piece, and whether it is held out for validation."""


def write_tokens(place: Path, unit: Unit, encoder: Encoder, fraction: float, advance: Advance) -> dict[str, Any]:
    """Write `place`/tokens.bin and documents.bin; returns counts, dtype and the first one's digest.

    `fraction` of the documents are held out.
    """
    dtype = np.dtype(encoder.dtype)
    counts, held_path, document = Counts(), place / "held.bin", blake2b(digest_size=8)
    with (
        (place / TOKENS).open("wb") as train,
        held_path.open("wb") as held,
        (place / DOCUMENTS).open("wb") as documents,
    ):
        pieces = _short(_visible(split(read_unit(unit, advance), fraction), counts))
        for is_held, ids in _encoded(pieces, encoder):
            data = np.array(ids, dtype=dtype).tobytes()
            (held if is_held else train).write(data)
            if is_held:
                continue
            document.update(data)
            if ids[-1:] == [encoder.end]:
                documents.write(document.digest())
                document = blake2b(digest_size=8)
        counts.train_tokens = train.tell() // dtype.itemsize
        counts.validation_tokens = held.tell() // dtype.itemsize
    _append(place / TOKENS, held_path)
    return {**asdict(counts), "dtype": dtype.str, "sha256": digest_file(place / TOKENS)}


def _append(path: Path, tail: Path) -> None:
    with path.open("ab") as target, tail.open("rb") as rest:
        shutil.copyfileobj(rest, target, 1 << 20)
    tail.unlink()


def _visible(pieces: Iterator[Labelled], counts: Counts) -> Iterator[Labelled]:
    """Leave out blank and excluded documents, and count all kinds."""
    first = True
    for piece, held in pieces:
        if piece.excluded:
            counts.excluded += 1
        elif first and piece.ends and (not piece.text or piece.text.isspace()):
            counts.blank += 1
        else:
            counts.documents += piece.ends
            first = piece.ends
            yield piece, held


def _short(pieces: Iterator[Labelled]) -> Iterator[Labelled]:
    """The same text in pieces of bounded size, which end at a line, or else before a word, where one ends in time."""
    for piece, held in pieces:
        text, start = piece.text, 0
        while len(text) - start > PIECE_CHARACTERS:
            window = start + 1, start + PIECE_CHARACTERS
            stop = text.rfind("\n", *window) + 1 or max(text.rfind(" ", *window), 0) or window[1]
            yield Piece(text[start:stop], ends=False), held
            start = stop
        yield Piece(text[start:], piece.ends), held


def _encoded(pieces: Iterator[Labelled], encoder: Encoder) -> Iterator[tuple[bool, list[int]]]:
    """The ids of each piece, end-of-text after a document's last, with whether it is held out."""
    for batch in _batches(pieces):
        encodings = encoder.tokenizer.encode_batch_fast([piece.text for piece, _ in batch], add_special_tokens=False)
        for (piece, held), encoding in zip(batch, encodings, strict=True):
            yield held, encoding.ids + [encoder.end] * piece.ends


def _batches(pieces: Iterator[Labelled]) -> Iterator[list[Labelled]]:
    batch: list[Labelled] = []
    size = 0
    for item in pieces:
        batch.append(item)
        size += len(item[0].text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
