"""The tokenizer of a run: a byte-level BPE trained on the training documents, a folder, or one of the hub."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from est_cli.common.errors import ConfigError, DataError, reason
from est_cli.data.text.hub_access import commit_here, how_to_enter, is_gated, refuse_revision, require_hub
from est_cli.data.text.pieces import TextSource, quiet, split
from est_cli.data.text.units import read_units
from est_cli.data.tokens.encode import Encoder
from est_cli.storage.cache import cached
from est_cli.storage.digest import fingerprint

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
END_OF_TEXT = "<|endoftext|>"
MAX_BPE_TOKENS = 50_257
"""A trained BPE stops at the size of GPT-2's, however large the model's vocabulary."""
TRAINING_CHARACTERS = 50_000_000
"""A BPE is trained on this much text at most, from the start of the corpus or, by their weights, of its sources."""
PART_CHARACTERS = 4
"""Of a part of a corpus, for each of its tokens."""
BPE_VERSION = 2
"""To be raised with every change below that makes another tokenizer of the same text."""


def load_tokenizer(
    name: str,
    vocab_size: int,
    sources: Sequence[TextSource],
    fraction: float,
    cache_root: Path,
    weights: Sequence[float] = (),
    revision: str | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer `name` (`bpe`, a folder or a hub id at a `revision`), fit for a model of `vocab_size` tokens.

    `bpe` is trained on the documents of `sources`, in proportion to their `weights`, that are not held out (`fraction`,
    see pieces.py) and kept in `cache_root`. Raises DataError where it cannot be loaded or used, ConfigError where it is
    larger than the model's.
    """
    tokenizer = (
        _trained(vocab_size, sources, fraction, cache_root, weights) if name == "bpe" else _existing(name, revision)
    )
    _check(tokenizer, name, vocab_size)
    return tokenizer


def backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the library tokenizer inside that cuts and pads nothing and treats all text as plain text.

    Raises DataError where there is none.
    """
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise DataError(f"tokenizer: {tokenizer.name_or_path!r} has no tokenizer.json and none could be made of it")
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def encoder_of(tokenizer: PreTrainedTokenizerBase, cut: str = "exact") -> Encoder:
    """What makes tokens of text, for training and for evaluation alike; `cut` as dataset.cut."""
    dtype = "<u2" if token_count(tokenizer) <= 2**16 else "<u4"
    end = tokenizer.eos_token_id or 0  # where there is none it is kept between documents, and never read
    return Encoder(backend(tokenizer), int(end), dtype, cut)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of all that decides which ids a text gets."""
    return fingerprint(backend(tokenizer).to_str(), tokenizer.eos_token_id)


def token_count(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id."""
    return 1 + max(tokenizer.get_vocab().values())


def _check(tokenizer: PreTrainedTokenizerBase, name: str, vocab_size: int) -> None:
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise DataError(
            f"tokenizer: {name!r} has no tokenizer.json and none could be made of it; give a fast tokenizer"
        )
    if tokenizer.eos_token_id is None:
        raise DataError(f"tokenizer: {name!r} has no end-of-text token (eos_token), which must stand between documents")
    count = token_count(tokenizer)
    if count <= len(tokenizer.all_special_ids):  # what transformers make of a folder without one
        raise DataError(f"tokenizer: {name!r} holds no tokens but special ones; save the whole tokenizer there")
    if count > vocab_size:
        raise ConfigError(
            f"tokenizer: {name!r} has {count} tokens, the model only {vocab_size}; use the model's own, or for a new "
            f"model model.vocab_size={count}"
        )
    if count < vocab_size:
        log.info("tokenizer %s has %d tokens, fewer than the model's %d: the rest stay unused", name, count, vocab_size)


def tokenizer_commit(name: str, revision: str | None) -> str | None:
    """The commit of a tokenizer that was loaded, None of one that is not of the hub."""
    return None if name == "bpe" else commit_here(name, revision, TOKENIZER_FILES)


_OR_TRAIN = "tokenizer=bpe trains one on the text"


def _existing(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """From a folder; from what was downloaded before; or from the hub."""
    refuse_revision("tokenizer_revision", name, revision)
    try:
        return _from_pretrained(name, revision, local=True)
    except Exception as error:  # the library raises many kinds, bare Exception among them
        if Path(name).is_dir():
            told = f"tokenizer: {name!r} holds no tokenizer that can be loaded ({reason(error)}); {_OR_TRAIN}"
            raise DataError(told) from error
    require_hub("tokenizer", name, f"download it elsewhere and give its folder, {_OR_TRAIN}")
    try:
        return _from_pretrained(name, revision, local=False)
    except Exception as error:
        if is_gated(error):
            raise DataError(f"tokenizer: {name!r} {how_to_enter(name)}") from error
        at = "" if revision is None else f" at tokenizer_revision={revision}"
        raise DataError(f"tokenizer: {name!r} cannot be loaded from the hub{at} ({reason(error)})") from error


def _from_pretrained(name: str, revision: str | None, local: bool) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(
        name, revision=revision or "main", local_files_only=local, trust_remote_code=False
    )


def _trained(
    vocab_size: int, sources: Sequence[TextSource], fraction: float, cache_root: Path, weights: Sequence[float]
) -> PreTrainedTokenizerBase:
    if not sources:
        raise ConfigError("tokenizer: bpe cannot be trained on token ids; name the tokenizer that made dataset.files")
    size = min(vocab_size, MAX_BPE_TOKENS)
    smallest = 1 + len(pre_tokenizers.ByteLevel.alphabet())
    if size < smallest:
        raise ConfigError(
            f"model.vocab_size: is {vocab_size}; a byte-level BPE needs at least model.vocab_size={smallest}"
        )
    prints = [source.fingerprints for source in sources]
    key = fingerprint("bpe", BPE_VERSION, TRAINING_CHARACTERS, size, fraction, prints, list(weights))
    folder = cache_root / f"tokenizer-{key[:16]}"

    def build(place: Path) -> dict[str, object]:
        log.info("training a byte-level BPE of %d tokens", size)
        _train(_training_text(sources, fraction, weights), size).save_pretrained(place)
        return {}

    cached(folder, build, f"an intact BPE of {size} tokens of this text")
    try:
        return _from_pretrained(str(folder), None, local=True)
    except Exception as error:  # it is intact, so the disk refuses
        raise DataError(f"{folder}: cannot be read ({reason(error)})") from error


def _train(texts: Iterator[str], size: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def _training_text(sources: Sequence[TextSource], fraction: float, weights: Sequence[float]) -> Iterator[str]:
    """The text to train on: of each source its share, or all that it has where that is less."""
    for source, weight in zip(sources, weights or [1.0], strict=True):
        left = round(TRAINING_CHARACTERS * weight / sum(weights or [1.0]))
        documents: float = math.inf
        if source.part is not None:
            left = min(left, PART_CHARACTERS * (source.part.tokens or left))
            documents = source.part.documents or math.inf
        for piece, held in split(read_units(source.beginning, quiet), 0.0 if source.validation else fraction):
            if not held:
                yield piece.text[:left]
                left -= len(piece.text)
            documents -= piece.ends and not piece.bad
            if left <= 0 or documents <= 0:
                break
