"""The user's own files of token ids (source=tokens): opened where they lie, and looked through before they are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig
from est_cli.data.text.repeats import once, refuse_or_tell
from est_cli.data.text.sources import expand
from est_cli.data.tokens.foreign_tokens import fitting_types, refuse_other_formats, refuse_wider
from est_cli.data.tokens.stream import CHUNK_TOKENS, TokenSpan, TokenStream
from est_cli.data.tokens.token_forms import RAW, TokenFile, token_file, without_index
from est_cli.storage.digest import fingerprint, remembered_digests

log = logging.getLogger(__name__)

MANY_ZEROS = 0.8
"""Share of the ids; no token is most of a text, and a file that was laid out but not filled is zeros."""
DTYPES = ("uint16", "uint32")


def open_token_files(
    dataset: DatasetConfig,
    vocab_size: int,
    known: int,
    cache_root: Path,
    verify: bool = True,
    begun: bool = False,
    end: int | None = None,
) -> tuple[TokenStream, TokenStream | None, str]:
    """The training ids, the validation ids where `validation_files` names them, and the digest of both.

    Raises DataError where a file holds something else, or an id does not fit a vocabulary of `vocab_size`; warns of one
    that the tokenizer, which has `known` tokens, could not have made, and of documents without its `end` of text.
    Without `verify`, another process looks. A copy for validation is refused, or where the run has `begun` told.
    """
    if dataset.token_dtype not in (None, *DTYPES):
        raise ConfigError(f"dataset.token_dtype: is {dataset.token_dtype!r}; must be {' or '.join(DTYPES)}, or null")
    train = _files(dataset, "files", verify, begun)
    held = _files(dataset, "validation_files", verify, begun)
    if verify:
        for file in (*train, *held):
            _look_through(file, vocab_size, known)
        _tell_ends([*train, *held], end)
    digests = remembered_digests([file.path for file in (*train, *held)], cache_root, verify)
    for file, digest in zip(held, digests[len(train) :], strict=True):
        if digest in digests[: len(train)]:
            what = f"dataset.validation_files: {file.path} has the content of dataset.files"
            refuse_or_tell(f"{what}; no text may be in both", begun)
    return _stream(train), _stream(held) if held else None, _digest(train, held, digests)


def _files(dataset: DatasetConfig, name: str, verify: bool, begun: bool) -> list[TokenFile]:
    paths = without_index(expand(getattr(dataset, name), f"dataset.{name}"))
    if verify:
        for path in paths:
            refuse_other_formats(path)
    files = [token_file(path, dataset.token_dtype) for path in paths]
    if verify:
        once(paths, f"dataset.{name}", begun)
        _tell(f"dataset.{name}", files)
    return files


def _tell(key: str, files: Sequence[TokenFile]) -> None:
    kinds = Counter((file.form or "file of raw ids", file.dtype.name) for file in files)
    told = ", ".join(f"{count} x {form} of {dtype}" for (form, dtype), count in kinds.items())
    if files:
        log.info("%s: %d tokens; %s", key, sum(file.count for file in files), told)


def _stream(files: Sequence[TokenFile]) -> TokenStream:
    return TokenStream([TokenSpan(file.path, file.dtype.str, 0, file.count, file.offset) for file in files])


def _digest(train: Sequence[TokenFile], held: Sequence[TokenFile], digests: Sequence[str]) -> str:
    """As it was always done of one file, or one for each side, of one type."""
    types = [file.dtype.str.replace("<i4", "<u4") for file in (*train, *held)]
    if len(train) == 1 and len(held) <= 1 and len(set(types)) == 1:
        return fingerprint("tokens", digests, types[0])
    return fingerprint("tokens", digests, types, len(train))


def _look_through(file: TokenFile, vocab_size: int, known: int) -> None:
    path, tokens = file.path, _stream([file])
    if file.form == RAW:
        refuse_wider(path, file.dtype, vocab_size)
    largest, zeros = _largest(tokens, file, vocab_size)
    if zeros > MANY_ZEROS * len(tokens):
        log.warning("%s: %d %% of its ids are 0; was it written to its end?", path, 100 * zeros // len(tokens))
    if largest >= known:
        message = "%s: holds the id %d, but the tokenizer has %d tokens only; another one made these ids"
        log.warning(message, path, largest, known)


def _largest(tokens: TokenStream, file: TokenFile, vocab_size: int) -> tuple[int, int]:
    """(the largest id, how many are 0); all must be below `vocab_size`."""
    largest = zeros = 0
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens.read(start, min(start + CHUNK_TOKENS, len(tokens)))
        largest, zeros = max(largest, int(chunk.max())), zeros + len(chunk) - int(np.count_nonzero(chunk))
        if largest >= vocab_size or int(chunk.min()) < 0:
            at = int(np.argmax((chunk >= vocab_size) | (chunk < 0)))
            another = ", or another dataset.token_dtype?" if file.form == RAW else "?"
            fit = fitting_types(file.path, file.dtype, vocab_size) if file.form == RAW else ""
            raise DataError(
                f"{file.path}: id {int(chunk[at])} at position {start + at}, but the model has {vocab_size} tokens; "
                f"is it another tokenizer's{another}{fit}"
            )
    return largest, zeros


def _tell_ends(files: Sequence[TokenFile], end: int | None) -> None:
    """Of files that tell where documents end: whether end-of-text stands there, as in all that est tokenises itself."""
    for file in files:
        last = [int(_stream([file]).read(at - 1, at)[0]) for at in file.document_ends if at > 0]
        without = sum(each != end for each in last)
        if without:
            log.warning(
                "%s: %d of its first %d documents do not end with the tokenizer's end of text (id %s), so that they "
                "run into each other; Megatron's preprocess_data.py appends it with --append-eod",
                file.path, without, len(last), end,
            )  # fmt: skip
        elif last:
            log.info("%s: its documents end with the tokenizer's end of text (id %d)", file.path, end)
