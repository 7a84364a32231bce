"""source=tokens: files of raw token ids, used where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig
from est_cli.data.sources import expand
from est_cli.data.stream import Span, TokenStream
from est_cli.storage.digest import fingerprint, remembered_digests

DTYPES = {"uint16": "<u2", "uint32": "<u4"}
CHUNK_TOKENS = 1 << 22


def open_token_files(
    dataset: DatasetConfig, vocab_size: int, cache_root: Path, verify: bool = True
) -> tuple[TokenStream, TokenStream | None, str]:
    """The training ids, the validation ids where `validation_files` names them, and the digest of both.

    Raises DataError where an id does not fit a vocabulary of `vocab_size`; without `verify`, another process looks.
    """
    if dataset.token_dtype not in DTYPES:
        raise ConfigError(f"dataset.token_dtype: is {dataset.token_dtype!r}; must be {' or '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[dataset.token_dtype])
    paths = [_single(dataset.files, "dataset.files")]
    if dataset.validation_files:
        paths.append(_single(dataset.validation_files, "dataset.validation_files"))
    if len(paths) == 2 and paths[0].samefile(paths[1]):
        raise DataError("dataset.validation_files: is the file of dataset.files; no text may be in both")
    streams = [_stream(path, dtype) for path in paths]
    if verify:
        for stream, path in zip(streams, paths, strict=True):
            _check(stream, path, vocab_size)
    digests = remembered_digests(paths, cache_root, verify)
    return streams[0], streams[1] if len(streams) == 2 else None, fingerprint("tokens", digests, dtype.str)


def _single(patterns: list[str], key: str) -> Path:
    paths = expand(patterns, key)
    if len(paths) != 1:
        raise ConfigError(f"{key}: source=tokens needs exactly one file of token ids, these are {len(paths)}")
    return paths[0]


def _stream(path: Path, dtype: np.dtype) -> TokenStream:
    size = path.stat().st_size
    if size == 0 or size % dtype.itemsize:
        raise DataError(f"{path}: has {size} bytes, not a whole number of {dtype.name} ids (dataset.token_dtype)")
    return TokenStream([Span(path, dtype.str, 0, size // dtype.itemsize)])


def _check(tokens: TokenStream, path: Path, vocab_size: int) -> None:
    """All ids must be below `vocab_size`."""
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens.read(start, min(start + CHUNK_TOKENS, len(tokens)))
        if int(chunk.max()) >= vocab_size:
            at = start + int(np.argmax(chunk >= vocab_size))
            raise DataError(
                f"{path}: id {int(chunk[at - start])} at position {at}, but the model has {vocab_size} tokens; "
                "is it another tokenizer's, or another dataset.token_dtype?"
            )
