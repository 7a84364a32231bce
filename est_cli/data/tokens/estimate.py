"""How long tokenising will take, told before it begins: by the beginning of the text, which is tokenised for it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from est_cli.data.text.pieces import FEW_BYTES, Limit, Unit
from est_cli.data.tokens.token_cache import EncodeJob, tokenised

log = logging.getLogger(__name__)

SAMPLE_TOKENS = 1_000_000
"""A second's work, or a few."""
SMALL_SHARE = 5
"""Where the run reads less than one in so many of the tokens, it is told how to have only these made."""


@dataclass(frozen=True)
class Sample:
    """The beginning of a text: its tokens, documents and bytes in UTF-8, the text in a byte of a file, the time."""

    tokens: int
    documents: int
    text: int
    unpacked: float
    seconds: float

    def of_files(self, count: float) -> float:
        """So many tokens or documents of the sample, for each byte of a file."""
        return count * self.unpacked / max(1, self.text)

    @property
    def rate(self) -> float:
        """Bytes of text per second."""
        return self.text / max(self.seconds, 1e-3)


def sampled(name: str, unit: Unit, documents: int | None, job: EncodeJob, verify: bool) -> Sample | None:
    """The first tokens of a unit, of so many `documents` at most; None where nothing can be learned of it."""
    limit = Limit(SAMPLE_TOKENS, documents)
    beginning = replace(unit, limit=limit, size=min(unit.size, FEW_BYTES - 1))
    (shard,) = tokenised(f"the beginning of {name}", [beginning], job, None, verify)
    counts = shard.counts
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    if not tokens or not counts["read"]:
        return None
    unpacked = counts["read_text"] / counts["read"]
    return Sample(tokens, counts["documents"], counts["bytes"], unpacked, counts["seconds"])


def tell_whole(name: str, missing: int, total: int, sample: Sample | None, reads: float | None) -> None:
    """Of a text whose files have `total` bytes, of which `missing` are to be tokenised; the run `reads` so many tokens.

    Where it is not known how far the sample got in its file, only the size of the files is told.
    """
    if sample is None:
        log.info("%s: %s of files to tokenise", name, _bytes(missing))
        return
    _tell(name, missing * sample.unpacked, sample)
    tokens = total * sample.of_files(sample.tokens)
    if reads is not None and SMALL_SHARE * reads < tokens:
        log.info(
            "%s: the run reads %s of its tokens, which are about %s; dataset.max_tokens=auto tokenises what it reads",
            name, _count(reads), _count(tokens),
        )  # fmt: skip


def tell_part(name: str, part: Limit, total: int, sample: Sample | None) -> None:
    """The same of a part of it."""
    if sample is None:
        return
    tokens, documents = part
    texts = [] if tokens is None else [tokens * sample.text / sample.tokens]
    texts += [] if documents is None else [documents * sample.text / max(1, sample.documents)]
    _tell(name, min(*texts, total * sample.unpacked), sample)


def _tell(name: str, text: float, sample: Sample) -> None:
    message = "%s: about %s of text to tokenise, %s at the %.1f MB/s of its beginning"
    log.info(message, name, _bytes(text), _span(text / sample.rate), sample.rate / 1e6)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _count(tokens: float) -> str:
    return f"{tokens / 1e9:.3g} billion" if tokens >= 1e9 else f"{tokens / 1e6:.3g} million"


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.2g} hours" if seconds >= 5400 else f"{max(1, seconds / 60):.0f} minutes"
