"""Documents that are both trained and validated on, found by the digests that lie with their tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from est_cli.common.errors import DataError, reason
from est_cli.data.encode import DOCUMENTS
from est_cli.data.repeats import refuse_or_tell
from est_cli.data.token_cache import Shard

log = logging.getLogger(__name__)

CHUNK_DOCUMENTS = 1 << 20
"""Compared at once: 8 MB of digests, beside those of the validation set."""


def compare_documents(train: Sequence[Shard], held: Sequence[Shard], begun: bool) -> None:
    """Tell how many documents of a named validation set are trained on too; refuse it where all of them are.

    Their digests lie with the tokens (8 bytes each). Those of the validation set are held in memory. Tokens that an
    older version has cached have none, and are not compared.
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


def _digests(shards: Sequence[Shard]) -> Iterator[NDArray[np.uint64]]:
    """Those of all documents but held-out ones, in pieces."""
    for path in dict.fromkeys(shard.folder / DOCUMENTS for shard in shards):
        try:
            size = path.stat().st_size // 8 if path.exists() else 0
            for first in range(0, size, CHUNK_DOCUMENTS):
                yield np.fromfile(path, "<u8", CHUNK_DOCUMENTS, offset=8 * first)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({reason(error)})") from error
