"""load_corpus: from the configuration's `dataset` group to token streams."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from est_cli.common.counts import counted
from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig, Source
from est_cli.config.setting import AUTO
from est_cli.data.text.pieces import FEW_BYTES, TextSource, Unit
from est_cli.data.text.shares import drawn
from est_cli.data.text.sources import expand, open_sources
from est_cli.data.tokens.ahead import Ahead, TextParts, first_parts
from est_cli.data.tokens.encode import FEW_TOKENS, TOKENS
from est_cli.data.tokens.estimate import sampled, tell_whole
from est_cli.data.tokens.foreign_tokens import refuse_other_tokenizer
from est_cli.data.tokens.overlap import compare_documents, documents_of
from est_cli.data.tokens.part import Taken, taken
from est_cli.data.tokens.stream import Tokens, TokenSpan, TokenStream, opened
from est_cli.data.tokens.token_cache import EncodeJob, Shard, bad_places, tokenised, warn_of_bad_rows
from est_cli.data.tokens.token_files import open_token_files
from est_cli.data.tokens.tokenizer import encoder_of, load_tokenizer, token_count, tokenizer_commit, tokenizer_digest
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
    weights = tuple(dataset.weights or ())
    sources = open_sources(dataset, cache_root, verify, begun)
    fraction = dataset.validation_fraction
    if dataset.is_ahead:
        sources = [replace(source, train=drawn(source.train, dataset.part_seed)) for source in sources]
    loaded = load_tokenizer(tokenizer, vocab_size, sources, fraction, cache_root, weights, tokenizer_revision)
    digest = tokenizer_digest(loaded)
    ahead = _ahead(sources, dataset, loaded, digest, cache_root, verify) if dataset.is_ahead else None
    if ahead is not None:
        parts = [
            _first(text, source, ahead, verify, block_size) for text, source in zip(ahead.texts, sources, strict=True)
        ]
    else:
        parts = [
            _part(source, dataset, loaded, digest, cache_root, block_size, verify, share)
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


@dataclass(frozen=True)
class _Part:
    """The tokens of one source."""

    train: TokenStream
    validation: TokenStream
    digest: str
    train_shards: list[Shard]
    named_shards: list[Shard]
    """Of documents that were named for validation; none where some are held out."""

    @property
    def folders(self) -> list[Path]:
        return [shard.folder for shard in (*self.train_shards, *self.named_shards)]

    @property
    def excluded(self) -> int:
        return sum(shard.counts["excluded"] for shard in (*self.train_shards, *self.named_shards))


def _part(
    source: TextSource,
    dataset: DatasetConfig,
    tokenizer: PreTrainedTokenizerBase,
    digest: str,
    cache_root: Path,
    block_size: int,
    verify: bool,
    reads: float | None,
) -> _Part:
    encoder, workers = encoder_of(tokenizer, dataset.cut.value), dataset.num_workers
    fraction = dataset.validation_fraction if source.validation is None else 0.0
    job = EncodeJob(encoder, digest, fraction, cache_root)

    def tell(missing: int, total: int, first: Unit) -> None:
        if missing >= FEW_BYTES:
            tell_whole(source.name, missing, total, sampled(source.name, first, None, job, verify), reads)

    part = Taken() if source.part is None else taken(source, job, workers, verify)
    train = part.shards if source.part else tokenised(source.name, source.train, job, workers, verify, tell)
    job = EncodeJob(encoder, digest, 0.0, cache_root)
    named = tokenised(source.name, source.validation or (), job, dataset.num_workers, verify)
    _log_counts(source.name, [*train, *named], encoder.end_text)
    streams = _stream(train, held=False), _stream(named, held=False) if named else _stream(train, held=True)
    prints = [[shard.counts["sha256"] for shard in shards] for shards in (train, named)]
    if source.part is not None:  # a unit of which all is taken may have been made as the beginning of itself
        streams = streams[0].part(0, min(len(streams[0]), source.part.tokens or len(streams[0]))), streams[1]
        prints[0] = [*part.units, str(len(streams[1]))]
    if not named and min(map(len, streams)) < block_size:
        log.info("too few documents to hold some out: the last %g of the tokens are for validation", fraction)
        streams = _end_held_out(streams[0] + streams[1], fraction, block_size)
    return _Part(*streams, fingerprint(prints, len(streams[0])), train, named)


def _ahead(
    sources: Sequence[TextSource],
    dataset: DatasetConfig,
    tokenizer: PreTrainedTokenizerBase,
    digest: str,
    cache_root: Path,
    verify: bool,
) -> Ahead:
    """All parts of the text; those that are there already are read where they are to be verified."""
    fraction = dataset.validation_fraction if sources[0].validation is None else 0.0  # the same of all
    job = EncodeJob(encoder_of(tokenizer, dataset.cut.value), digest, fraction, cache_root)
    texts = tuple(TextParts(source.name, source.train, job) for source in sources)
    ahead = Ahead(texts, tuple(dataset.weights or ()), job, dataset.num_workers)
    if verify:
        ahead.discard_damaged()
    return ahead


def _first(text: TextParts, source: TextSource, ahead: Ahead, verify: bool, block_size: int) -> _Part:
    """What a run can begin with, made now where it is missing; the digest is of all of the text."""
    workers = ahead.num_workers
    count = first_parts(text, ahead.job, workers, verify, block_size, named=source.validation is not None)
    named = tokenised(source.name, source.validation or (), replace(ahead.job, fraction=0.0), workers, verify)
    text.told = count
    log.info("%s: training begins with %d of %d parts", source.name, count, len(text.units))
    _log_counts(source.name, [*text.shards[:count], *named], ahead.job.encoder.end_text)
    streams = [[text.stream(number, held) for number in range(count)] for held in (False, True)]
    train, held = (sum(some, TokenStream([])) for some in streams)
    prints = [folder.name for folder in text.folders], [shard.counts["sha256"] for shard in named]
    validation = _stream(named, held=False) if named else held
    if max(map(len, streams[0])) < block_size or len(validation) < block_size:
        raise DataError(
            f"{source.name}: has no part of {block_size} tokens (train.seq_len), or holds fewer out; give more text or "
            "use dataset.tokenize=first, which joins all of it"
        )
    return _Part(train, validation, fingerprint("ahead", *prints), text.shards[:count], named)


def _stream(shards: Sequence[Shard], held: bool) -> TokenStream:
    """The tokens to train on of all shards, or those held out."""
    return TokenStream([_span(shard, held) for shard in shards])


def _span(shard: Shard, held: bool) -> TokenSpan:
    train, validation = shard.counts["train_tokens"], shard.counts["validation_tokens"]
    start, stop = (train, train + validation) if held else (0, train)
    return TokenSpan(shard.folder / TOKENS, shard.counts["dtype"], start, stop)


def _shares_of(reads: int | None, weights: Sequence[float]) -> list[float | None]:
    """How many tokens a run that `reads` so many reads of each source."""
    return [None if reads is None else reads * weight / sum(weights) for weight in weights] or [reads]


def _end_held_out(tokens: TokenStream, fraction: float, block_size: int) -> tuple[TokenStream, TokenStream]:
    """The last `fraction` of the tokens, which is at least a block, apart from the rest."""
    point = max(0, len(tokens) - max(block_size, round(len(tokens) * fraction)))
    return tokens.part(0, point), tokens.part(point, len(tokens))


def _log_counts(name: str, shards: Sequence[Shard], end_text: str) -> None:
    """Raises DataError where there is no text at all."""

    def total(key: str) -> int:
        return sum(shard.counts.get(key, 0) for shard in shards)  # folders of earlier versions do not have all

    documents, blank, excluded = total("documents"), total("blank"), total("excluded")
    others = f" and {counted(excluded, 'excluded one')}" if excluded else ""
    places = bad_places(shards)
    if bad := total("bad"):
        others += f" and {counted(bad, 'row')} without text (dataset.on_bad_row=skip)"
    if not documents:
        only = f", only {counted(blank, 'blank document')}{others}" if blank or excluded or bad else ""
        raise DataError(f"{name}: no text in it{only}{f'; the first: {places[0]}' if places else ''}")
    spelled = total("spelled")
    as_text = f"; {end_text} is written in it {counted(spelled, 'time')}, as plain text" if spelled else ""
    tokens = total("train_tokens") + total("validation_tokens")
    log.info(
        "%s: %s of %s; %s%s left out%s",
        name,
        counted(tokens, "token"),
        counted(documents, "document"),
        counted(blank, "blank one"),
        others,
        as_text,
    )
    warn_of_bad_rows(name, shards)
    if spelled >= documents:
        log.warning(
            "%s: if it stands between documents in .txt files, dataset.separator='%s' ends them there", name, end_text
        )
    if 2 * total("short") > documents:
        log.warning(
            "%s: most documents have fewer than %d tokens; if they are lines of longer ones, join them "
            "(dataset.articles=true does so for wikitext, docs/data.md says what a document is)",
            name,
            FEW_TOKENS,
        )


def _log_shares(sources: Sequence[TextSource], parts: Sequence[_Part], weights: Sequence[float]) -> None:
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
        train, validation = _end_held_out(train, dataset.validation_fraction, block_size)
        digest = fingerprint(digest, len(train))
    if isinstance(dataset.max_tokens, int):
        train = train.part(0, min(len(train), dataset.max_tokens))
        digest = fingerprint(digest, "part", len(train))
    return Corpus(Tokens((train,)), Tokens((validation,)), (), loaded, digest, tokenizer_digest(loaded), ())


def _use_threads(count: int | None) -> None:
    """Have `tokenizers` work with `count` threads in this process; it reads the variable at its first use."""
    if count is not None:
        os.environ["RAYON_NUM_THREADS"] = str(count)
