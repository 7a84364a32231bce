"""Text that is tokenised while the run goes on (dataset.tokenize=ahead): parts, and the processes that make them.

A part is a unit with its folder in the cache, as for dataset.tokenize=first, so both share what is there. It is visible
when it is whole, to every process that sees the folder: nothing else is told.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from threading import Event, Thread

from est_cli.common.errors import StorageError
from est_cli.data.text.pieces import UNIT_BYTES, Limit, Unit, quiet
from est_cli.data.tokens.encode import TOKENS
from est_cli.data.tokens.encode_workers import Pace, run_tasks
from est_cli.data.tokens.stream import TokenSpan, TokenStream
from est_cli.data.tokens.token_cache import EncodeJob, Shard, folder_of, intact_of, tasks_of, tokenised
from est_cli.storage.cache import META, Busy, clear_leftovers, intact, locked
from est_cli.storage.digest import fingerprint

log = logging.getLogger(__name__)

BEGINNING_BYTES = 2 * UNIT_BYTES
"""Of a first unit that is larger, its beginning is a part of its own: it would take minutes to tokenise."""
BEGINNING_TOKENS = 8_000_000
"""About what is in a unit of usual size."""
LEAST_AHEAD, AHEAD_OF_EACH = 4, 2
"""Parts behind the one that the run reads that may be tokenised: so many, or so many for each process."""
NICE = 10
"""Training goes before."""
LOOK_S = 1.0
"""Between two looks whether there is something to do."""


class TextParts:
    """The parts of one source, in the order in which a run reads them; they become known one after the other."""

    def __init__(self, name: str, units: Sequence[Unit], job: EncodeJob) -> None:
        self.name, self.units = name, list(units)
        self.begins = self.units[0].size > BEGINNING_BYTES
        """Whether the first part is the beginning of what the second one is the rest of."""
        if self.begins:
            limit = Limit(BEGINNING_TOKENS)
            self.units.insert(0, replace(self.units[0], limit=limit, size=min(self.units[0].size, BEGINNING_BYTES)))
        self.folders = [folder_of(unit, job) for unit in self.units]
        self.shards: list[Shard] = []
        self.told = 0
        """Of how many of them it was told what was left out."""

    def look(self) -> int:
        """How many of the parts, from the first on, are there."""
        while len(self.shards) < len(self.folders):
            folder = self.folders[len(self.shards)]
            if (counts := intact(folder, full=False)) is None:
                break
            self.shards.append(Shard(folder, counts))
        return len(self.shards)

    def stream(self, number: int, held: bool = False) -> TokenStream:
        """The tokens to train on of a part that is there, or those held out."""
        counts = self.shards[number].counts
        train, validation = counts["train_tokens"], counts["validation_tokens"]
        start, stop = (train, train + validation) if held else (0, train)
        if self.begins and number == 1:  # which holds the first part, too
            start += self.shards[0].counts["validation_tokens" if held else "train_tokens"]
        return TokenStream([TokenSpan(self.shards[number].folder / TOKENS, counts["dtype"], start, stop)])


@dataclass
class Ahead:
    """All parts of a text that is mixed of `texts` by `weights`, and what is done to have them there in time."""

    texts: tuple[TextParts, ...]
    weights: Sequence[float]
    job: EncodeJob
    num_workers: int | None

    def __post_init__(self) -> None:
        self.failure: Exception | None = None
        """Why no more parts are made."""
        self._reached = [0] * len(self.texts)
        self._stop = Event()

    @property
    def _processes(self) -> int:
        return self.num_workers or os.cpu_count() or 1

    def reach(self, parts: Sequence[int]) -> None:
        """Tell that the run reads these parts now, one of each source, or has read later ones."""
        self._reached = [max(pair) for pair in zip(self._reached, parts, strict=True)]

    def discard_damaged(self) -> None:
        """Read all parts that are there, and remove those that are not what was written. Raises StorageError."""
        folders = [folder for text in self.texts for folder in text.folders if (folder / META).exists()]
        sound = intact_of(folders, True, warn=True)
        for folder in folders:
            if folder not in sound:
                shutil.rmtree(folder, ignore_errors=True)
                if folder.exists():
                    raise StorageError(
                        f"{folder}: is damaged and cannot be removed; make it again elsewhere (paths.data)"
                    )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have processes make what is missing until the end of the block, no further ahead than is of use."""
        thread = Thread(target=self._work, name="tokenise", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            clear_leftovers([folder for text in self.texts for folder in text.folders])

    def _work(self) -> None:
        try:
            while (todo := self._missing()) and not self._stop.is_set():
                while not self._stop.is_set() and not any(self._is_near(*place) for place in todo.values()):
                    self._stop.wait(LOOK_S)
                self._make(todo)
        except Exception as error:
            self.failure = error
            log.warning("no more text is tokenised, and the run ends where it needs more: %s", error)

    def _missing(self) -> dict[Path, tuple[int, int]]:
        """Folders with source and number, in about the order in which the run reads them."""
        places = [
            (behind / weight, source, number)
            for source, (text, weight) in enumerate(zip(self.texts, self.weights or [1.0], strict=True))
            for number, behind in enumerate(accumulate((unit.size for unit in text.units[:-1]), initial=0))
        ]
        todo: dict[Path, tuple[int, int]] = {}
        for _, source, number in sorted(places):
            folder = self.texts[source].folders[number]
            if not (folder / META).exists():
                todo.setdefault(folder, (source, number))
        return todo

    def _is_near(self, source: int, number: int) -> bool:
        """Whether a part is not too far ahead of the run to be made."""
        return number <= self._reached[source] + max(LEAST_AHEAD, AHEAD_OF_EACH * self._processes)

    def _make(self, todo: dict[Path, tuple[int, int]]) -> None:
        """Of what is missing whatever is near; nothing where another process is at it."""
        places, names = list(todo.values()), [folder.name for text in self.texts for folder in text.folders]
        units = {folder: self.texts[source].units[number] for folder, (source, number) in todo.items()}
        pace = Pace(lambda index: self._is_near(*places[index]), self._stop.is_set, NICE)
        gate = self.job.cache_root / f"ahead-{fingerprint(names)[:16]}"
        try:
            with locked(gate, f"intact tokens of {len(todo)} of {len(names)} parts of the text", waits=False):
                clear_leftovers(list(todo))
                run_tasks(tasks_of(units, self.job), min(self._processes, len(todo)), 1, quiet, pace)
        except Busy:
            self._stop.wait(LOOK_S)


def first_parts(text: TextParts, job: EncodeJob, num_workers: int | None, verify: bool, block: int, named: bool) -> int:
    """Have as many parts made as give a block of tokens to train on and, unless it is `named`, one for validation.

    Returns how many these are; all, where all do not give that. Raises DataError and StorageError.
    """
    for count in range(len(text.units)):
        if count and _are_enough(text, count, block, named):
            return count
        if text.look() == count:
            text.shards += tokenised(text.name, text.units[count : count + 1], job, num_workers, verify)
    return len(text.units)


def _are_enough(text: TextParts, count: int, block: int, named: bool) -> bool:
    longest = max(len(text.stream(number)) for number in range(count))
    return longest >= block and (named or sum(len(text.stream(number, held=True)) for number in range(count)) >= block)
