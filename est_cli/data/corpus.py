"""load_corpus: from the configuration's `dataset` group to token streams."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from est_cli.common.errors import ConfigError
from est_cli.config import DatasetConfig, Source
from est_cli.config.setting import AUTO
from est_cli.data.source_tokens import SourceTokens, all_parts, end_held_out, first_tokens, source_tokens
from est_cli.data.text.pieces import TextSource
from est_cli.data.text.shares import drawn
from est_cli.data.text.sources import expand, open_sources
from est_cli.data.tokens.ahead import Ahead
from est_cli.data.tokens.foreign_tokens import refuse_other_tokenizer
from est_cli.data.tokens.overlap import compare_documents, documents_of
from est_cli.data.tokens.stream import Tokens, opened
from est_cli.data.tokens.token_files import open_token_files
from est_cli.data.tokens.tokenizer import load_tokenizer, token_count, tokenizer_commit, tokenizer_digest
from est_cli.storage.digest import fingerprint
from est_cli.storage.run_dir import check_no_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Token ids to train and to validate on, read from the disk when they are needed; the digests identify them.

    `weights` are those of the streams of `train`; none where there is a single one. `folders` is where the ids are
    cached; none where the user's own token files are used.
    """

    train: Tokens
    validation: Tokens
    weights: tuple[float, ...]
    tokenizer: PreTrainedTokenizerBase
    data_hash: str
    tokenizer_hash: str
    folders: tuple[Path, ...]
    train_folders: tuple[Path, ...] = ()
    """Those of `folders` in which nothing but held-out documents is for validation."""
    revisions: tuple[str | None, ...] = ()
    """The commit of each data set of the hub, None of a folder."""
    tokenizer_revision: str | None = None
    ahead: Ahead | None = None
    """Of dataset.tokenize=ahead all parts of the text; `train` and `validation` are then of the first parts alone."""


def load_corpus(
    dataset: DatasetConfig,
    tokenizer: str,
    vocab_size: int,
    cache_root: Path,
    block_size: int = 1,
    verify: bool = True,
    begun: bool = False,
    reads: int | None = None,
    tokenizer_revision: str | None = None,
) -> Corpus:
    """The corpus of `dataset` in tokens, from the cache below `cache_root` or tokenised into it now.

    Any number of processes, on any hosts that share `cache_root`, may call this at the same time. All files are read to
    be sure that they are as they were; without `verify` (where another process of the machine does it) names, sizes and
    times are believed. Where no validation set is named and the held-out documents do not fill a block of `block_size`
    tokens (a corpus of one document, say), the end of the token stream is held out instead. Text that is both trained
    and validated on is refused; of a run that has `begun` it is told. Where the text is much more than the `reads`
    tokens of the run, that is told before it is tokenised. Raises DataError, ConfigError, StorageError.
    """
    check_no_file(cache_root, "tokens are kept in")
    _use_threads(dataset.num_workers)
    opened.cache_clear()
    if dataset.max_tokens == AUTO:
        raise ConfigError("dataset.max_tokens: auto means what a run reads; give the number that its config.yaml holds")
    if dataset.source is Source.tokens:
        loaded = load_tokenizer(tokenizer, vocab_size, (), 0.0, cache_root, revision=tokenizer_revision)
        found = _from_token_files(dataset, loaded, vocab_size, cache_root, block_size, verify, begun)
        return replace(found, tokenizer_revision=tokenizer_commit(tokenizer, tokenizer_revision))
    return _from_text(dataset, tokenizer, vocab_size, cache_root, block_size, verify, begun, reads, tokenizer_revision)


def _from_text(
    dataset: DatasetConfig,
    tokenizer: str,
    vocab_size: int,
    cache_root: Path,
    block_size: int,
    verify: bool,
    begun: bool,
    reads: int | None,
    tokenizer_revision: str | None,
) -> Corpus:
    """The parameters are those of load_corpus()."""
    weights = tuple(dataset.weights or ())
    sources = open_sources(dataset, cache_root, verify, begun)
    fraction = dataset.validation_fraction
    if dataset.is_ahead:
        sources = [replace(source, train=drawn(source.train, dataset.part_seed)) for source in sources]
    loaded = load_tokenizer(tokenizer, vocab_size, sources, fraction, cache_root, weights, tokenizer_revision)
    digest = tokenizer_digest(loaded)
    ahead = all_parts(sources, dataset, loaded, digest, cache_root, verify) if dataset.is_ahead else None
    if ahead is not None:
        parts = [
            first_tokens(text, source, ahead, verify, block_size)
            for text, source in zip(ahead.texts, sources, strict=True)
        ]
    else:
        parts = [
            source_tokens(source, dataset, loaded, digest, cache_root, block_size, verify, share)
            for source, share in zip(sources, _shares_of(reads, weights), strict=True)
        ]
        _log_shares(sources, parts, weights)
    if verify:
        named = [shard.folder for part in parts for shard in part.named_shards]
        compare_documents([shard.folder for part in parts for shard in part.train_shards], named, begun)
    if dataset.exclude and ahead is None and not any(part.excluded for part in parts):
        log.warning("dataset.exclude: no row has %s, nothing is left out", " or ".join(dataset.exclude))
    held = tuple(part.validation for part in parts)
    shared = dataset.validation_files or len(parts) == 1  # files are named for all sources together
    return Corpus(
        train=Tokens(tuple(part.train for part in parts)),
        validation=Tokens(held[:1]) if shared else Tokens(held, weights),
        weights=weights if len(parts) > 1 else (),
        tokenizer=loaded,
        data_hash=parts[0].digest if len(parts) == 1 else fingerprint([part.digest for part in parts], weights),
        tokenizer_hash=digest,
        folders=tuple(folder for part in parts for folder in part.folders),
        train_folders=tuple(shard.folder for part in parts for shard in part.train_shards),
        revisions=tuple(revision for source in sources for revision in source.revisions),
        tokenizer_revision=tokenizer_commit(tokenizer, tokenizer_revision),
        ahead=ahead,
    )


def _shares_of(reads: int | None, weights: Sequence[float]) -> list[float | None]:
    """How many tokens a run that `reads` so many reads of each source."""
    return [None if reads is None else reads * weight / sum(weights) for weight in weights] or [reads]


def _log_shares(sources: Sequence[TextSource], parts: Sequence[SourceTokens], weights: Sequence[float]) -> None:
    for source, part, weight in zip(sources, parts, weights, strict=False):
        share = 100 * weight / sum(weights)
        log.info("%s gives %.3g %% of the training samples, from %d tokens", source.name, share, len(part.train))


def _from_token_files(
    dataset: DatasetConfig,
    loaded: PreTrainedTokenizerBase,
    vocab_size: int,
    cache_root: Path,
    block_size: int,
    verify: bool,
    begun: bool,
) -> Corpus:
    train, validation, digest = open_token_files(
        dataset, vocab_size, token_count(loaded), cache_root, verify, begun, loaded.eos_token_id
    )
    if verify:
        for path in expand([*dataset.files, *dataset.validation_files], "dataset.files"):
            refuse_other_tokenizer(path, tokenizer_digest(loaded), begun)
    if validation is not None and verify:
        end = loaded.eos_token_id
        folders = [
            documents_of(*side, end, cache_root) for side in ((train, f"{digest}/0"), (validation, f"{digest}/1"))
        ]
        compare_documents(folders[:1], folders[1:], begun)
    if validation is None:
        train, validation = end_held_out(train, dataset.validation_fraction, block_size)
        digest = fingerprint(digest, len(train))
    if isinstance(dataset.max_tokens, int):
        train = train.part(0, min(len(train), dataset.max_tokens))
        digest = fingerprint(digest, "part", len(train))
    return Corpus(Tokens((train,)), Tokens((validation,)), (), loaded, digest, tokenizer_digest(loaded), ())


def _use_threads(count: int | None) -> None:
    """Have `tokenizers` work with `count` threads in this process; it reads the variable at its first use."""
    if count is not None:
        os.environ["RAYON_NUM_THREADS"] = str(count)
