"""Documents to one file of tokens: those to train on first, then those held out, each followed by end-of-text."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from est_cli.data.digest import digest_file
from est_cli.data.pieces import Advance, Piece, Source, split
from est_cli.data.tokenizer import backend, token_count
from est_cli.errors import DataError

log = logging.getLogger(__name__)

TOKENS = "tokens.bin"
BATCH_CHARACTERS = 4_000_000
"""Text that is tokenised at once, its documents in parallel on all cores."""


@dataclass
class Counts:
    """What a token file holds. `blank` documents, without any visible character, were left out."""

    train_tokens: int = 0
    validation_tokens: int = 0
    documents: int = 0
    blank: int = 0


Labelled = tuple[Piece, bool]
"""A piece, and whether it is held out for validation."""


def write_tokens(place: Path, source: Source, tokenizer: PreTrainedTokenizerBase, fraction: float) -> dict[str, Any]:
    """Write `place`/tokens.bin; returns counts, dtype and digest. Raises DataError where there is no text."""
    dtype = np.dtype("<u2" if token_count(tokenizer) <= 2**16 else "<u4")
    counts, held_path = Counts(), place / "held.bin"
    with (place / TOKENS).open("wb") as train, held_path.open("wb") as held, _progress(source) as advance:
        pieces = _visible(_labelled(source, fraction, advance), counts)
        for is_held, ids in _encoded(pieces, tokenizer):
            (held if is_held else train).write(np.array(ids, dtype=dtype).tobytes())
        counts.train_tokens = train.tell() // dtype.itemsize
        counts.validation_tokens = held.tell() // dtype.itemsize
    if not counts.documents:
        raise DataError(f"{source.name}: no text in it, only {counts.blank} blank documents")
    _append(place / TOKENS, held_path)
    total = counts.train_tokens + counts.validation_tokens
    log.info("%d tokens of %d documents; %d blank ones left out", total, counts.documents, counts.blank)
    return {**asdict(counts), "dtype": dtype.str, "sha256": digest_file(place / TOKENS)}


def _append(path: Path, tail: Path) -> None:
    with path.open("ab") as target, tail.open("rb") as rest:
        shutil.copyfileobj(rest, target, 1 << 20)
    tail.unlink()


def _labelled(source: Source, fraction: float, advance: Advance) -> Iterator[Labelled]:
    yield from split(source.train(advance), fraction)
    if source.validation is not None:
        yield from ((piece, True) for piece in source.validation(advance))


def _visible(pieces: Iterator[Labelled], counts: Counts) -> Iterator[Labelled]:
    """Leave out blank documents, and count both kinds."""
    first = True
    for piece, held in pieces:
        if first and piece.ends and (not piece.text or piece.text.isspace()):
            counts.blank += 1
            continue
        counts.documents += piece.ends
        first = piece.ends
        yield piece, held


def _encoded(pieces: Iterator[Labelled], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[bool, list[int]]]:
    """The ids of each piece, end-of-text after a document's last, with whether it is held out."""
    encoder, end = backend(tokenizer), [tokenizer.eos_token_id]
    for batch in _batches(pieces):
        encodings = encoder.encode_batch_fast([piece.text for piece, _ in batch], add_special_tokens=False)
        for (piece, held), encoding in zip(batch, encodings, strict=True):
            yield held, encoding.ids + end * piece.ends


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


@contextmanager
def _progress(source: Source) -> Iterator[Advance]:
    """A bar on a terminal's stderr; anywhere else one line of log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("tokenising %s", source.name)
        yield lambda units: None
        return
    columns = TextColumn("tokenising"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=source.total)
        yield lambda units: bar.advance(task, units)
