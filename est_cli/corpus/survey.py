"""Numbers of a corpus in tokens: counted from what lies with them, and from the tokens themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from est_cli.common.errors import StorageError
from est_cli.common.redact import one_line
from est_cli.data import Corpus
from est_cli.data.tokens.encode import DOCUMENTS, ENDS
from est_cli.data.tokens.overlap import documents_in
from est_cli.data.tokens.stream import CHUNK_TOKENS, Tokens
from est_cli.data.tokens.tokenizer import backend, token_count
from est_cli.storage.cache import intact

SAMPLE_TOKENS = 128
SAMPLE_CHARACTERS = 300
LOOK_AHEAD = 8192
"""Tokens within which the beginning of a document is looked for."""
_UNKNOWN, _BYTE = 1, 2


@dataclass(frozen=True)
class Documents:
    """What is known of the documents; a number that nobody has kept is None.

    `longest` is in tokens, without end-of-text; `train` are those to train on, `duplicates` those of them that equal an
    earlier one; `bad` rows had no text and were passed over (dataset.on_bad_row); the text has `bytes` in UTF-8.
    """

    count: int
    longest: int | None
    train: int | None
    duplicates: int | None
    blank: int | None = None
    excluded: int | None = None
    bad: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class OddTokens:
    """Tokens that stand for what the vocabulary does not have; None where the tokenizer has none of the kind."""

    unknown: int | None
    bytes: int | None
    """Of byte fallback, each a byte of a character that no token holds."""


def documents_of(corpus: Corpus) -> Documents:
    """Raises StorageError where the cache was changed meanwhile, DataError for the user's own files."""
    return _of_cache(corpus) if corpus.folders else _of_token_files(corpus)


def _of_cache(corpus: Corpus) -> Documents:
    counts = [_remembered(folder) for folder in corpus.folders]
    ends, digests = (
        [folder / name for folder in folders]
        for folders, name in ((corpus.folders, ENDS), (corpus.train_folders, DOCUMENTS))
    )

    train, duplicates = (
        _distinct([np.fromfile(path, "<u8") for path in digests]) if _all_there(digests) else (None, None)
    )

    def total(key: str) -> int:
        return sum(one.get(key, 0) for one in counts)

    return Documents(
        total("documents"),
        max((_longest(path) for path in ends), default=0) if _all_there(ends) else None,
        train,
        duplicates,
        blank=total("blank"),
        excluded=total("excluded"),
        bad=total("bad"),
        bytes=total("bytes"),
    )


def _remembered(folder: Path) -> dict[str, int]:
    found = intact(folder, full=False)
    if found is None:
        raise StorageError(f"{folder}: was changed while it was read; give the same command again")
    return found


def _all_there(paths: Sequence[Path]) -> bool:
    """An older version has not kept them."""
    return all(path.exists() for path in paths)


def _longest(ends: Path) -> int:
    """Of the documents of a unit, in tokens before its end-of-text."""
    lengths = np.diff(np.fromfile(ends, "<u8").astype(np.int64), prepend=0)
    return int(lengths.max(initial=1)) - 1


def _distinct(digests: Sequence[NDArray[np.uint64]]) -> tuple[int, int]:
    """(How many there are, how many of them equal an earlier one)."""
    found = np.concatenate([*digests, np.empty(0, "<u8")])
    return len(found), len(found) - len(np.unique(found))


def _of_token_files(corpus: Corpus) -> Documents:
    digests: list[bytes] = []
    count = longest = 0
    for held, tokens in enumerate((corpus.train, corpus.validation)):
        for stream in tokens.streams:
            for digest, length in documents_in(stream, int(corpus.tokenizer.eos_token_id)):
                count, longest = count + 1, max(longest, length - 1)
                if not held:
                    digests.append(digest)
    return Documents(count, longest, *_distinct([np.frombuffer(b"".join(digests), "<u8")]))


def odd_tokens(corpus: Corpus) -> OddTokens:
    """How many of all tokens, held-out ones among them, are the unknown token or of byte fallback."""
    unknown, fallback = odd_ids(corpus.tokenizer)
    kinds = np.zeros(token_count(corpus.tokenizer) + 1, np.uint8)
    kinds[fallback] = _BYTE
    if unknown is not None:
        kinds[unknown] = _UNKNOWN
    found = np.zeros(3, np.int64)
    if kinds.any():
        for ids in (*_chunks(corpus.train), *_chunks(corpus.validation)):
            found += np.bincount(kinds[np.minimum(ids, len(kinds) - 1)], minlength=3)
    return OddTokens(
        unknown=int(found[_UNKNOWN]) if unknown is not None else None,
        bytes=int(found[_BYTE]) if fallback else None,
    )


def odd_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, list[int]]:
    """The id that stands for unknown text, None where there is none of its own; the ids of byte fallback."""
    library = backend(tokenizer)
    model = json.loads(library.to_str())["model"]
    unknown = model.get("unk_id")  # of Unigram; the other models name the token
    if unknown is None and model.get("unk_token"):
        unknown = library.token_to_id(model["unk_token"])
    named = [library.token_to_id(f"<0x{byte:02X}>") for byte in range(256)] if model.get("byte_fallback") else []
    return (None if unknown == tokenizer.eos_token_id else unknown), [number for number in named if number is not None]


def _chunks(tokens: Tokens) -> Iterator[NDArray[np.int64]]:
    for stream in tokens.streams:
        for start in range(0, len(stream), CHUNK_TOKENS):
            yield stream.read(start, min(start + CHUNK_TOKENS, len(stream)))


def samples_of(corpus: Corpus, count: int, seed: int) -> list[str]:
    """Documents to train on, of the sources in turn, each as a line that no terminal takes for commands.

    Their beginnings; where one is far, what stands in the middle behind `...`.
    """
    streams = [stream for stream in corpus.train.streams if len(stream)]
    end, rng, found = corpus.tokenizer.eos_token_id, np.random.default_rng(seed), []
    for number in range(count if streams else 0):
        stream = streams[number % len(streams)]
        start = int(rng.integers(len(stream)))
        ids = stream.read(start, min(start + LOOK_AHEAD, len(stream)))
        ends = np.flatnonzero(ids[:-1] == end)
        first = 0 if start == 0 else int(ends[0]) + 1 if len(ends) else None
        ids = ids[first:]
        stop = int(np.flatnonzero(np.append(ids, end) == end)[0])
        text = corpus.tokenizer.decode(ids[: min(stop, SAMPLE_TOKENS)].tolist())
        found.append(("... " if first is None else "") + one_line(text)[:SAMPLE_CHARACTERS])
    return found
