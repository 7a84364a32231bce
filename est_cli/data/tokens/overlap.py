"""Documents that are both trained and validated on, found by the digests that lie with their tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import DataError, reason
from est_cli.data.text.repeats import refuse_or_tell
from est_cli.data.tokens.encode import DOCUMENTS
from est_cli.data.tokens.stream import CHUNK_TOKENS, TokenStream
from est_cli.storage.cache import cached
from est_cli.storage.digest import fingerprint

log = logging.getLogger(__name__)

CHUNK_DOCUMENTS = 1 << 20
"""Compared at once: 8 MB of digests, beside those of the validation set."""


def compare_documents(train: Sequence[Path], held: Sequence[Path], begun: bool) -> None:
    """Tell how many documents of a named validation set are trained on too; refuse it where all of them are.

    Their digests (8 bytes each) lie in these folders, with the tokens. Those of the validation set are held in memory.
    Tokens that an older version has cached have none, and are not compared.
    """
    documents, counts = np.unique(np.concatenate([*_digests(held), np.empty(0, "<u8")]), return_counts=True)
    if not len(documents):
        return
    found = np.zeros(len(documents), dtype=bool)
    for chunk in _digests(train):
        places = documents.searchsorted(chunk).clip(max=len(documents) - 1)
        found[places[documents[places] == chunk]] = True
    common, total = int(counts[found].sum()), int(counts.sum())
    if common == total:
        refuse_or_tell(f"dataset: all {total} documents for validation are in the training text too", begun)
    elif common:
        share = 100 * common / total
        message = "%d of the %d documents for validation (%.2g %%) are in the training text too"
        log.warning(message, common, total, share)


def documents_of(tokens: TokenStream, key: str, end: int, cache_root: Path) -> Path:
    """A folder of the cache with the digests of documents that `end` ends; `key` tells these tokens from others.

    It is made at the first call, which reads all of them.
    """
    folder = cache_root / f"documents-{fingerprint('documents', key, end)[:16]}"

    def build(place: Path) -> dict[str, Any]:
        log.info("looking for documents of the validation set in the training set, once for these files")
        _write_digests(place / DOCUMENTS, tokens, end)
        return {}

    cached(folder, build, "intact digests of the documents of these token files")
    return folder


def _write_digests(path: Path, tokens: TokenStream, end: int) -> None:
    with path.open("wb") as file:
        file.writelines(digest for digest, _ in documents_in(tokens, end))


def documents_in(tokens: TokenStream, end: int) -> Iterator[tuple[bytes, int]]:
    """The digest of each document that `end` ends, and how many tokens it has with that.

    An end of text with nothing before it is no document, nor is what stands behind the last one.
    """
    document, length = blake2b(digest_size=8), 0
    for start in range(0, len(tokens), CHUNK_TOKENS):
        ids = tokens.read(start, min(start + CHUNK_TOKENS, len(tokens)))
        *whole, rest = np.split(ids.astype("<u4"), np.flatnonzero(ids == end) + 1)
        for part in whole:
            document.update(part.tobytes())
            if length + len(part) > 1:
                yield document.digest(), length + len(part)
            document, length = blake2b(digest_size=8), 0
        document.update(rest.tobytes())
        length += len(rest)


def _digests(folders: Sequence[Path]) -> Iterator[NDArray[np.uint64]]:
    """Those of all documents but held-out ones, in pieces."""
    for path in dict.fromkeys(folder / DOCUMENTS for folder in folders):
        try:
            size = path.stat().st_size // 8 if path.exists() else 0
            for first in range(0, size, CHUNK_DOCUMENTS):
                yield np.fromfile(path, "<u8", CHUNK_DOCUMENTS, offset=8 * first)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({reason(error)})") from error
