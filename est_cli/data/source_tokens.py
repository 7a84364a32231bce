"""One source of text in tokens: those to train on, those held out or named for validation, and their digest."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from est_cli.common.counts import counted
from est_cli.common.errors import DataError
from est_cli.config import DatasetConfig
from est_cli.data.text.pieces import FEW_BYTES, TextSource, Unit
from est_cli.data.tokens.ahead import Ahead, TextParts, first_parts
from est_cli.data.tokens.encode import FEW_TOKENS, TOKENS
from est_cli.data.tokens.estimate import sampled, tell_whole
from est_cli.data.tokens.part import Taken, taken
from est_cli.data.tokens.stream import TokenSpan, TokenStream
from est_cli.data.tokens.token_cache import EncodeJob, Shard, bad_places, tokenised, warn_of_bad_rows
from est_cli.data.tokens.tokenizer import encoder_of
from est_cli.storage.digest import fingerprint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceTokens:
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


def source_tokens(
    source: TextSource,
    dataset: DatasetConfig,
    tokenizer: PreTrainedTokenizerBase,
    digest: str,
    cache_root: Path,
    block_size: int,
    verify: bool,
    reads: float | None,
) -> SourceTokens:
    """All of a source, from the cache or tokenised now; `reads`: the tokens that the run reads of it, if that is known.

    Raises DataError where there is no text.
    """
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
        streams = end_held_out(streams[0] + streams[1], fraction, block_size)
    return SourceTokens(*streams, fingerprint(prints, len(streams[0])), train, named)


def all_parts(
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


def first_tokens(text: TextParts, source: TextSource, ahead: Ahead, verify: bool, block_size: int) -> SourceTokens:
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
    return SourceTokens(train, validation, fingerprint("ahead", *prints), text.shards[:count], named)


def _stream(shards: Sequence[Shard], held: bool) -> TokenStream:
    """The tokens to train on of all shards, or those held out."""
    return TokenStream([_span(shard, held) for shard in shards])


def _span(shard: Shard, held: bool) -> TokenSpan:
    train, validation = shard.counts["train_tokens"], shard.counts["validation_tokens"]
    start, stop = (train, train + validation) if held else (0, train)
    return TokenSpan(shard.folder / TOKENS, shard.counts["dtype"], start, stop)


def end_held_out(tokens: TokenStream, fraction: float, block_size: int) -> tuple[TokenStream, TokenStream]:
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
        raise DataError(
            f"{name}: no text in it{only}{f'; the first: {places[0]}' if places else ''}; name files that have some"
        )
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
