"""The data room: text to token blocks whose order is a pure function of the seed.

1. sources.py yields documents: the standard library's, those of local files, those of the hub.
2. tokenizer.py loads the tokenizer, or trains a byte-level BPE on the documents.
3. encode.py writes the tokens of all documents to one file, cache.py keeps it in data/cache/<hash>/.
4. Some documents are held out for validation, by a hash of their index (pieces.py).
5. blocks.py cuts the tokens into blocks and says which block is the i-th sample.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from est_cli.config import DatasetConfig
from est_cli.config import Source as SourceName
from est_cli.data.blocks import BlockOrder, TokenBlocks
from est_cli.data.cache import cached
from est_cli.data.digest import fingerprint
from est_cli.data.encode import TOKENS, write_tokens
from est_cli.data.pieces import Source
from est_cli.data.sources import open_source
from est_cli.data.token_files import open_token_files
from est_cli.data.tokenizer import load_tokenizer, tokenizer_digest

__all__ = ["BlockOrder", "Corpus", "TokenBlocks", "load_corpus"]

log = logging.getLogger(__name__)

FORMAT = 1
"""To be raised with every change that makes other token files of the same text and tokenizer."""


@dataclass(frozen=True)
class Corpus:
    """Token ids to train and to validate on, uint16 or uint32, mapped from the disk; the digests identify them.

    `folder` is where they are cached; None where the user's own token files are used.
    """

    train: np.ndarray
    validation: np.ndarray
    tokenizer: PreTrainedTokenizerBase
    data_hash: str
    tokenizer_hash: str
    folder: Path | None


def load_corpus(
    dataset: DatasetConfig, tokenizer: str, vocab_size: int, cache_root: Path, block_size: int = 1
) -> Corpus:
    """The corpus of `dataset` in tokens, from the cache below `cache_root` or tokenised into it now.

    Where no validation set is named and the held-out documents do not fill a block of `block_size` tokens (a corpus of
    one document, say), the end of the token stream is held out instead. Raises DataError, ConfigError, StorageError.
    """
    _use_threads(dataset.num_workers)
    if dataset.source is SourceName.tokens:
        return _from_token_files(dataset, tokenizer, vocab_size, cache_root, block_size)
    source = open_source(dataset)
    fraction = dataset.validation_fraction if source.validation is None else 0.0
    loaded = load_tokenizer(tokenizer, vocab_size, source, fraction, cache_root)
    digest = tokenizer_digest(loaded)
    folder = cache_root / fingerprint("tokens", FORMAT, source.fingerprint, digest, fraction)[:16]
    counts = cached(folder, lambda place: write_tokens(place, source, loaded, fraction))
    tokens = np.memmap(folder / TOKENS, dtype=counts["dtype"], mode="r")
    point = _split_point(counts, dataset.validation_fraction, block_size, source)
    return Corpus(tokens[:point], tokens[point:], loaded, fingerprint(counts["sha256"], point), digest, folder)


def _split_point(counts: dict[str, Any], fraction: float, block_size: int, source: Source) -> int:
    """Where training ends and validation begins."""
    train, validation = counts["train_tokens"], counts["validation_tokens"]
    if source.validation is not None or min(train, validation) >= block_size:
        return train
    log.info("too few documents to hold some out: the last %g of the tokens are for validation", fraction)
    return _tail(train + validation, fraction, block_size)


def _tail(total: int, fraction: float, block_size: int) -> int:
    """The start of the last `fraction` of `total` tokens, which is at least a block."""
    return max(0, total - max(block_size, round(total * fraction)))


def _from_token_files(
    dataset: DatasetConfig, tokenizer: str, vocab_size: int, cache_root: Path, block_size: int
) -> Corpus:
    loaded = load_tokenizer(tokenizer, vocab_size, None, 0.0, cache_root)
    train, validation, digest = open_token_files(dataset, vocab_size)
    if validation is None:
        point = _tail(len(train), dataset.validation_fraction, block_size)
        train, validation, digest = train[:point], train[point:], fingerprint(digest, point)
    return Corpus(train, validation, loaded, digest, tokenizer_digest(loaded), None)


def _use_threads(count: int | None) -> None:
    """Have `tokenizers` work with `count` threads; it reads the variable at its first use."""
    if count is not None:
        os.environ["RAYON_NUM_THREADS"] = str(count)
