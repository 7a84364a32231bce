"""The tokens of units, each in a cache folder of its own: those that are missing are made, in processes or here.

A folder is named after the content of its unit and the tokenizer, so an interrupted build continues where it stopped,
and a corpus that grows, or is mixed in another way, is not tokenised again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TimeRemainingColumn

from est_cli.common.bars import NO_WRAP, progress_bar
from est_cli.data.text.pieces import FEW_BYTES, Advance, Unit
from est_cli.data.tokens.cuts import is_tame
from est_cli.data.tokens.encode import BAD_PLACES, Encoder, write_tokens
from est_cli.data.tokens.encode_workers import NUMBER_KEY, run_tasks
from est_cli.storage.cache import cached, clear_leftovers, intact, locked, publish
from est_cli.storage.digest import fingerprint

log = logging.getLogger(__name__)

FORMATS = {"lines": 2, "exact": 3}
"""For each value of dataset.cut; to be raised with every change that makes other tokens of the same text and tokenizer,
or another folder."""
LIMIT_S = 120.0
"""CPU time that a tokenizer of unknown parts may take for a batch: those of known models take less than a second."""
LIMIT_BYTES = 4 * 1024**3
"""Memory of a process in which such a one works."""

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class EncodeJob:
    """How units become tokens; `digest` is the tokenizer's, `fraction` of the documents are held out.

    `key`: the setting that is named where a process is lost.
    """

    encoder: Encoder
    digest: str
    fraction: float
    cache_root: Path
    key: str = NUMBER_KEY

    @cached_property
    def limited(self) -> bool:
        """Whether nobody knows what the tokenizer makes of a text: then it works in processes with limits."""
        return not is_tame(self.encoder.tokenizer)


@dataclass(frozen=True)
class Shard:
    """The tokens of a unit: where they lie, and what encode.py remembers about them."""

    folder: Path
    counts: dict[str, Any]


def bad_places(shards: Sequence[Shard]) -> list[str]:
    """Where rows without text were passed over; of a unit with many only the first ones."""
    return [place for shard in shards for place in shard.counts.get("bad_places", ())]


def warn_of_bad_rows(name: str, shards: Sequence[Shard]) -> None:
    """Tell how many rows without text were passed over, and where the first ones are."""
    if bad := sum(shard.counts.get("bad", 0) for shard in shards):
        first = "" if bad <= BAD_PLACES else f", of which these are the first {BAD_PLACES}"
        places = "\n  ".join(bad_places(shards)[:BAD_PLACES])
        log.warning("%s: %d rows without text are passed over%s:\n  %s", name, bad, first, places)


Before = Callable[[int, int, Unit], None]
"""Told before units are made: the size of those that are missing, of all, and the first that is missing."""


def tokenised(
    name: str,
    units: Sequence[Unit],
    job: EncodeJob,
    num_workers: int | None,
    verify: bool,
    before: Before | None = None,
) -> list[Shard]:
    """The tokens of all units, in their order, from the cache or made now.

    Without `verify` the folders that are there are taken for intact where sizes and seals are right. Other processes
    that want the same units wait. Raises DataError and StorageError.
    """
    folders = [folder_of(unit, job) for unit in units]
    found = intact_of(folders, verify)
    if len(found) < len(set(folders)):
        gate = job.cache_root / f"units-{fingerprint([folder.name for folder in folders])[:16]}"
        with locked(gate, f"intact tokens of {name} ({len(set(folders)) - len(found)} of {len(set(folders))} parts)"):
            found = intact_of(folders, verify, warn=True)
            todo = {folder: unit for folder, unit in zip(folders, units, strict=True) if folder not in found}
            if todo:
                clear_leftovers(folders)
                missing, total = (sum(unit.size for unit in some) for some in (todo.values(), units))
                if before is not None:
                    before(missing, total, next(iter(todo.values())))
                found |= _made(name, todo, total, job, num_workers)
    return [Shard(folder, found[folder]) for folder in folders]


def folder_of(unit: Unit, job: EncodeJob) -> Path:
    """Where the tokens of a unit are, or will be."""
    limit = [] if unit.limit is None else [list(unit.limit)]
    key = fingerprint("tokens", FORMATS[job.encoder.cut], unit.fingerprint, job.digest, job.fraction, *limit)
    return job.cache_root / key[:16]


def intact_of(folders: Sequence[Path], verify: bool, warn: bool = False) -> dict[Path, dict[str, Any]]:
    """What is remembered about those that are there."""
    unique = list(dict.fromkeys(folders))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda folder: intact(folder, verify, warn), unique)
    return {folder: counts for folder, counts in zip(unique, found, strict=True) if counts is not None}


def _made(
    name: str, todo: dict[Path, Unit], total: int, job: EncodeJob, num_workers: int | None
) -> dict[Path, dict[str, Any]]:
    """Tokenise what is missing: `total` is the size of everything."""
    missing = sum(unit.size for unit in todo.values())
    cores = num_workers or os.cpu_count() or 1
    processes = 1 if missing < FEW_BYTES else min(cores, len(todo))
    kept = f", {100 * (total - missing) / total:.0f} % is there already" if missing < total else ""
    by = f", {len(todo)} parts in {processes} processes" if processes > 1 else ""
    with progress(f"tokenising {name}{by}{kept}", total, total - missing) as advance:
        if processes > 1 or job.limited:
            results = run_tasks(tasks_of(todo, job), processes, max(1, cores // processes), advance)
            return dict(zip(todo, results, strict=True))
        return {folder: _made_here(folder, unit, job, advance) for folder, unit in todo.items()}


def _made_here(folder: Path, unit: Unit, job: EncodeJob, advance: Advance) -> dict[str, Any]:
    def build(place: Path) -> dict[str, Any]:
        return {**write_tokens(place, unit, job.encoder, job.fraction, advance), "tokenizer": job.digest}

    return publish(folder, build)


def tasks_of(todo: dict[Path, Unit], job: EncodeJob) -> list[dict[str, Any]]:
    """The same for encode_workers.py, in plain values."""
    folder = job.cache_root / f"encoder-{job.digest[:16]}"

    def save(place: Path) -> dict[str, Any]:
        job.encoder.tokenizer.save(str(place / TOKENIZER))
        return {}

    cached(folder, save, "an intact copy of the tokenizer")
    encoder = {"end": job.encoder.end, "dtype": job.encoder.dtype, "cut": job.encoder.cut}
    encoder |= {"limit_s": LIMIT_S} if job.limited else {}
    shared = {"tokenizer": str(folder / TOKENIZER), "encoder": encoder, "memory": LIMIT_BYTES if job.limited else None}
    return [
        {
            "unit": asdict(unit),
            "folder": str(folder),
            "fraction": job.fraction,
            "digest": job.digest,
            "key": job.key,
            **shared,
        }
        for folder, unit in todo.items()
    ]


LINE_EVERY_S = 60.0
"""Between lines of log."""


@contextmanager
def progress(what: str, total: int, done: int) -> Iterator[Advance]:
    """A bar on a terminal's stderr; anywhere else a line of log, and another one every minute."""
    console = Console(stderr=True)
    if not console.is_terminal:
        log.info("%s", what)
        yield _lines(total, done)
        return
    with progress_bar(console, TimeRemainingColumn(table_column=NO_WRAP)) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda units: bar.advance(task, units)


def _lines(total: int, done: int) -> Advance:
    """Tells now and then how far it is, and how long the rest takes at the pace since the start."""
    began = logged = time.monotonic()
    at_first = done

    def advance(units: int) -> None:
        nonlocal done, logged
        done += units
        now = time.monotonic()
        if now - logged >= LINE_EVERY_S and done > at_first:
            logged, left = now, (now - began) * (total - done) / (done - at_first)
            log.info("%.0f %% tokenised, about %.0f minutes left", 100 * done / max(1, total), left / 60)

    return advance
