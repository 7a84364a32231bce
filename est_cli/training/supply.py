"""Text that is tokenised ahead of the run: whether the samples of a step are there, in all processes alike."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from est_cli.common.errors import DataError, EstError
from est_cli.data.parts import PartOrder
from est_cli.data.tokens.ahead import Ahead
from est_cli.data.tokens.encode_workers import ERRORS
from est_cli.data.tokens.token_cache import warn_of_bad_rows
from est_cli.distributed import Group
from est_cli.training.reading import Reading

log = logging.getLogger(__name__)

STEPS = 2
"""A step and the next one, which is made ready while it runs."""


@dataclass(frozen=True)
class Look:
    """What all processes found together."""

    signum: int | None
    """The signal that asked one of them to stop."""
    failure: Exception | None
    """Why no more text will come; the same kind of error in all processes."""


@dataclass
class Supply:
    """Admits parts to `order` when every process sees them, so that none reads what another lacks.

    Its methods are for the thread that trains, and all processes call them at the same steps.
    """

    ahead: Ahead
    order: PartOrder
    group: Group
    reading: Reading

    def __post_init__(self) -> None:
        self.look(None)

    def has(self, step: int) -> bool:
        """Whether the samples of `step` and of the next one are there, as far as is known without a look."""
        until = min(step + STEPS, self.reading.batch.max_steps)
        first, end = self.reading.first_sample(step), self.reading.first_sample(until)
        needed = self.order.needed(first, end - first)
        self.ahead.reach(needed)
        return all(part < there for part, there in zip(needed, self.order.admitted, strict=True))

    def look(self, signum: int | None) -> Look:
        """Admit what has come since the last look. `signum`: what asks this process to stop."""
        failed = self.ahead.failure
        found = [text.look() for text in self.ahead.texts]
        everyone = self.group.gather([*found, failed is not None, signum or 0])
        there = [min(column) for column in zip(*everyone, strict=True)][: len(found)]
        if self.group.rank.first:
            for text, count in zip(self.ahead.texts, there, strict=True):
                warn_of_bad_rows(text.name, text.shards[text.told : count])
                text.told = max(text.told, count)
        self.order.admit(there)
        asked = max(numbers[-1] for numbers in everyone)
        ranks = [rank for rank, numbers in enumerate(everyone) if numbers[-2]]
        return Look(asked or None, self._agreed(failed, ranks) if ranks else None)

    def _agreed(self, failed: Exception | None, ranks: list[int]) -> Exception:
        """The error of this process, or what the others say of theirs."""
        told = self.group.share(None if failed is None else [type(failed).__name__, str(failed)])
        if failed is not None:
            return failed
        if told is None:
            return DataError(f"rank {ranks[0]}: cannot tokenise more of the text, and says why")
        return ERRORS.get(told[0], EstError)(told[1])
