"""Data sets of the Hugging Face hub, and local folders of that layout, through `datasets`.

A data set of the hub is streamed: its text is never kept on the disk, only its tokens are. Its revision is looked up
once and then remembered in the cache, so that every process and every later run means the same text, with or without a
network. A folder is known by the content of its files. Units are groups of data files, or of rows where
HF_HUB_OFFLINE=1 asks for what was downloaded before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from est_cli.common.errors import ConfigError, DataError
from est_cli.config import DatasetConfig
from est_cli.config.data import NO_REVISION
from est_cli.data.text.document_ends import articles
from est_cli.data.text.hub_access import data_set_revision, file_sizes, refuse_revision, require_hub
from est_cli.data.text.hub_text import (
    TRAINING_SPLIT,
    VALIDATION_SPLIT,
    HubText,
    data_files,
    open_text,
    row_count,
    rows_of,
)
from est_cli.data.text.pieces import (
    MAX_UNITS,
    UNIT_BYTES,
    Advance,
    LaterUnits,
    Piece,
    TextSource,
    Unit,
    Wanted,
    document,
)
from est_cli.data.text.readers import read_file
from est_cli.data.text.shares import drawn
from est_cli.storage.cache import cached, intact
from est_cli.storage.digest import fingerprint, remembered_digests

ADVANCE_BYTES = 64 * 1024
"""Between two reports of what was read."""


class _Read(Enum):
    """Which files of a folder are read to know what it holds."""

    all = "all there are, as it was always done"
    own = "the data files of the split"
    later = "none yet"


@dataclass(frozen=True)
class _Known:
    """A text with its revision, what it is known by, of how many `parts` it is, and their size together for the bar.

    `files`: the data file of each part, where every part is one; `sizes`: their bytes, where these are known.
    """

    text: HubText
    identity: list[Any]
    parts: int
    size: int
    files: Sequence[str] = ()
    sizes: Sequence[int] = ()

    def size_of(self, index: int, count: int) -> int:
        return self.sizes[index] if len(self.sizes) == count else self.size // count


def hub_source(dataset: DatasetConfig, names: Sequence[str], cache_root: Path, verify: bool) -> TextSource:
    """The data sets `names`, one after the other. Raises DataError where one cannot be loaded."""
    if dataset.hub_validation_split == dataset.hub_split:
        raise ConfigError(f"dataset.hub_validation_split: is {dataset.hub_split!r} as dataset.hub_split; name another")
    wanted = Wanted(
        dataset.text_fields, dataset.exclude, articles=dataset.articles, skip_bad_rows=dataset.skips_bad_rows
    )
    settings = wanted.settings
    revisions = dict(zip(dataset.hub_ids, dataset.revision, strict=False))
    revisions = {name: revision for name, revision in revisions.items() if revision != NO_REVISION}

    def known(split: str, read: _Read, files: Sequence[str] = (), key: str = TRAINING_SPLIT) -> list[_Known]:
        texts = (
            HubText(name, dataset.hub_config, split, revisions.get(name), tuple(files), dataset.data_dir, key)
            for name in names
        )
        return [_identified(text, cache_root, verify, read if dataset.is_part else _Read.all) for text in texts]

    train, held = known(dataset.hub_split, _Read.later, dataset.data_files), None
    if dataset.hub_validation_split is not None:
        held = _units(known(dataset.hub_validation_split, _Read.own, key=VALIDATION_SPLIT), settings)
    name = names[0] if dataset.weights is not None else "dataset.hub_ids"
    revisions_used = tuple(each.text.revision for each in train)
    if dataset.is_part:
        taken = _drawn_units(train, settings, dataset.part_seed, cache_root, verify)
        return TextSource(name, taken, held, revisions=revisions_used)
    return TextSource(name, _units(train, settings), held, revisions=revisions_used)


def read_shard(
    advance: Advance,
    name: str,
    config: str | None,
    split: str,
    revision: str | None,
    index: int,
    count: int,
    size: int,
    files: Sequence[str] = (),
    folder: str | None = None,
    file: str | None = None,
    **settings: Any,
) -> Iterator[Piece]:
    """The documents of part `index` of `count` of a data set; `file` is where it lies. Raises DataError.

    Parquet on the disk is read by our own reader, which knows limits: the same rows in the same order.
    """
    wanted = Wanted(**settings)
    if file is not None and file.endswith(".parquet") and Path(file).is_file():
        yield from read_file(Path(file), wanted, advance)
        return
    part = "" if count == 1 else f", part {index + 1} of {count}"
    shard = open_text(HubText(name, config, split, revision, tuple(files), folder)).shard(num_shards=count, index=index)
    counted = _counted(rows_of(shard, wanted, name), advance, size, None if file is None else row_count(file))
    rows = enumerate(counted, start=1)
    pieces = (document(row, wanted, f"{name} ({split}{part}):{number}") for number, row in rows)
    yield from articles(pieces) if wanted.articles else pieces


def _units(texts: Sequence[_Known], settings: dict[str, Any]) -> tuple[Unit, ...]:
    return tuple(
        _unit(known, index, min(known.parts, MAX_UNITS), known.identity, settings)
        for known in texts
        for index in range(min(known.parts, MAX_UNITS))
    )


def _drawn_units(
    texts: Sequence[_Known], settings: dict[str, Any], seed: int, cache_root: Path, verify: bool
) -> LaterUnits:
    """All parts in an order drawn from `seed`; of a folder's data file the content is read when it is needed."""
    places = drawn([(known, index) for known in texts for index in range(known.parts)], seed)

    def make(number: int) -> Unit:
        known, index = places[number]
        identity = known.identity
        if known.text.revision is None and known.files:
            path = Path(known.files[index])
            identity = [os.path.relpath(path, known.text.name), *remembered_digests([path], cache_root, verify)]
        return _unit(known, index, known.parts, identity, settings)

    return LaterUnits([known.size_of(index, known.parts) for known, index in places], make)


def _unit(known: _Known, index: int, count: int, identity: list[Any], settings: dict[str, Any]) -> Unit:
    size = known.size_of(index, count)
    arguments = {**known.text.arguments, "index": index, "count": count, "size": size, **settings}
    if len(known.files) == count:
        arguments["file"] = known.files[index]
    return Unit("hub", arguments, fingerprint("hub", identity, *known.text.chosen, index, count, settings), size)


def _identified(text: HubText, cache_root: Path, verify: bool, read: _Read) -> _Known:
    """What is known of a text; `read`: of a folder."""
    if Path(text.name).is_dir():
        return _of_folder(text, cache_root, verify, read)
    known = intact(_remembered(text, cache_root))
    if known is None and text.revision is not None:
        newest = intact(_remembered(replace(text, revision=None), cache_root)) or {}
        known = newest if newest.get("revision") == text.revision else None
    if known is None and constants.HF_HUB_OFFLINE:
        return _downloaded(text)
    known = known or cached(_remembered(text, cache_root), lambda place: _looked_up(text), f"the commit of {text.name}")
    text = replace(text, revision=known["revision"])
    more = {key: known.get(key, ()) for key in ("files", "sizes")}
    return _Known(text, known["identity"], known["parts"], known["size"], **more)


def _remembered(text: HubText, cache_root: Path) -> Path:
    """Where it is kept what was found out about a text; for the newest revision the first time it was asked for."""
    key = [text.name, *text.chosen, *([] if text.revision is None else [text.revision])]
    return cache_root / f"hub-{fingerprint(*key)[:16]}"


def _looked_up(text: HubText) -> dict[str, Any]:
    require_hub(
        "dataset.hub_ids",
        text.name,
        "download it elsewhere and give its files with dataset=text dataset.files",
        or_folder=False,
    )
    text = replace(text, revision=data_set_revision(text.name, text.revision))
    parts = int(open_text(text).num_shards)
    files = data_files(text)
    sizes = file_sizes(text.name, str(text.revision), files) if len(files) == parts else []
    found = {"identity": [text.name, text.revision], "revision": text.revision, "parts": parts}
    found["size"] = sum(sizes) or parts * UNIT_BYTES
    return found | ({"files": files, "sizes": sizes} if sizes else {})


def _of_folder(text: HubText, cache_root: Path, verify: bool, read: _Read) -> _Known:
    refuse_revision("dataset.revision", text.name, text.revision)
    folder, parts = Path(text.name), int(open_text(text).num_shards)
    files = data_files(text)
    if len(files) != parts or not all(Path(name).is_file() for name in files):
        files = []  # a part is no data file: of an archive, say
    sizes = [Path(name).stat().st_size for name in files]
    if files and read is _Read.later:
        return _Known(text, [], parts, sum(sizes), files, sizes)
    if files and (read is not _Read.all or text.files or text.folder):
        paths = [Path(name) for name in files]
    else:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    names = [os.path.relpath(path, folder) for path in paths]
    identity = [names, remembered_digests(paths, cache_root, verify)]
    size = sum(sizes) or sum(path.stat().st_size for path in paths)
    return _Known(text, identity, parts, size, files, sizes)


def _downloaded(text: HubText) -> _Known:
    if text.revision is not None:
        raise DataError(
            f"dataset.revision: of {text.name!r} the revision {text.revision} was not read here before; unset "
            "HF_HUB_OFFLINE, or leave it out for what was downloaded"
        )
    data = open_text(text)
    size = int(data.data.nbytes)
    return _Known(text, [text.name, data._fingerprint], 1 + size // UNIT_BYTES, size)


def _counted(rows: Iterator[Any], advance: Advance, size: int, count: int | None) -> Iterator[Any]:
    """The rows, and `advance` told of the part of `size` that they are of all; at the end where nobody knows."""
    told = 0
    for number, row in enumerate(rows, start=1):
        yield row
        done = size * min(number, count) // count if count else 0
        if done - told >= ADVANCE_BYTES:
            advance(done - told)
            told = done
    advance(size - told)
