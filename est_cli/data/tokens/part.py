"""A part of a text: its beginning in an order of files that is drawn, and only as many files as that takes.

How many tokens a unit has is known when they are made. So those that are all but sure to be needed whole are made at
once, in processes, by what was seen of the others; then the next one, no further than the part goes; and so on. What
the part holds depends on none of that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NamedTuple

from est_cli.data.text.pieces import FEW_BYTES, LaterUnits, Limit, TextSource, Unit
from est_cli.data.tokens.estimate import SAMPLE_TOKENS, Sample, sampled, tell_part
from est_cli.data.tokens.token_cache import EncodeJob, Shard, folder_of, tokenised

log = logging.getLogger(__name__)

SAMPLE_MARGIN = 2.0
"""So many times denser than the sample, which is small, units may be and still be read for no more than is needed."""
MARGIN = 1.1
"""The same of units that were made."""


@dataclass
class Taken:
    """The tokens of a part: all units are whole, but of the last there may be less; `units` names them."""

    shards: list[Shard] = field(default_factory=list)
    units: list[str] = field(default_factory=list)


class _Density(NamedTuple):
    """The most tokens to train on, and documents, that were seen in a byte of a file; 0: nothing was seen yet."""

    tokens: float = 0.0
    documents: float = 0.0
    margin: float = SAMPLE_MARGIN

    @classmethod
    def of(cls, sample: Sample) -> _Density:
        return cls(sample.of_files(sample.tokens), sample.of_files(sample.documents))

    def and_of(self, shard: Shard, size: int) -> _Density:
        tokens, documents = (count / max(1, size) for count in _counts(shard))
        if self.margin == MARGIN:
            tokens, documents = max(self.tokens, tokens), max(self.documents, documents)
        return _Density(tokens, documents, MARGIN)

    def surely_whole(self, sizes: Sequence[int], left: Limit) -> int:
        """How many units of these sizes are all but sure to be no more than what is left."""
        if not self.tokens:
            return 0
        return sum(1 for size in accumulate(sizes) if size <= self._bytes(left) / self.margin)

    def size(self, size: int, left: Limit) -> int:
        """What has to be read of the next unit, about."""
        return min(size, round(self._bytes(left) * MARGIN)) if self.tokens else size

    def _bytes(self, left: Limit) -> float:
        """What is left, in bytes of files."""
        pairs = zip(left, self[:2], strict=True)
        return min(count / each for count, each in pairs if count is not None and each)


def taken(source: TextSource, job: EncodeJob, num_workers: int | None, verify: bool) -> Taken:
    """The tokens of `source.part`, from the cache or made now. Raises DataError and StorageError."""
    units, part = source.train, source.part
    assert isinstance(units, LaterUnits) and part is not None
    sample = _sample(source.name, units, part, job, verify)
    told = False

    def tell(missing: int, total: int, first: Unit) -> None:
        nonlocal told
        if not told:
            tell_part(source.name, part, sum(units.sizes), sample)
        told = True

    def made(some: Sequence[Unit]) -> list[Shard]:
        return tokenised(source.name, some, job, num_workers, verify, tell)

    found, left = Taken(), part
    density = _Density.of(sample) if sample else _Density()
    while 0 not in left and len(found.shards) < len(units):
        first = len(found.shards)
        count = density.surely_whole(units.sizes[first:], left)
        shards = _that_fit(made(units[first : first + count]), left) if count else []
        if not shards:
            size = density.size(units.sizes[first], left)
            shards = made([replace(units[first], limit=left, size=size)])
        for unit, shard in zip(units[first : first + len(shards)], shards, strict=True):
            found.shards.append(shard)
            found.units.append(folder_of(unit, job).name)
            left, density = _less(left, shard), density.and_of(shard, unit.size)
    _tell_taken(source.name, found, left, len(units))
    return found


def _sample(name: str, units: LaterUnits, part: Limit, job: EncodeJob, verify: bool) -> Sample | None:
    """The beginning of a part that is much more than that."""
    few = part.tokens is not None and part.tokens <= 2 * SAMPLE_TOKENS
    if few or sum(units.sizes) < FEW_BYTES:
        return None
    return sampled(name, units[0], part.documents, job, verify)


def _that_fit(shards: Sequence[Shard], left: Limit) -> list[Shard]:
    """The first ones, as far as they are whole in what is left."""
    fitting = []
    for shard in shards:
        if any(limit is not None and count > limit for count, limit in zip(_counts(shard), left, strict=True)):
            break
        left = _less(left, shard)
        fitting.append(shard)
    return fitting


def _less(left: Limit, shard: Shard) -> Limit:
    pairs = zip(left, _counts(shard), strict=True)
    return Limit(*(None if limit is None else max(0, limit - count) for limit, count in pairs))


def _counts(shard: Shard) -> tuple[int, int]:
    return shard.counts["train_tokens"], shard.counts["documents"]


def _tell_taken(name: str, found: Taken, left: Limit, files: int) -> None:
    if 0 in left:
        log.info("%s: the part is in %d of %d units of its files", name, len(found.shards), files)
    else:
        log.info("%s: there is no more of it than is taken: all %d units of its files", name, files)
