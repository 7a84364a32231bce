"""Where the text comes from: the standard library, local files, or the hub (hub.py), as `TextSource`s made of units.

A fingerprint is made of the bytes of the files here, never of names or times: new content under an old name is noticed,
and the same files elsewhere are recognised. What far files are known by, far/ says.
"""

from __future__ import annotations

import collections
import glob
import itertools
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from est_cli.common.errors import ConfigError, DataError
from est_cli.common.nearby import did_you_mean
from est_cli.common.urls import is_url, shown
from est_cli.config import DatasetConfig, Source
from est_cli.data.text.hub import hub_source
from est_cli.data.text.pieces import LaterUnits, Limit, TextSource, Unit, Wanted
from est_cli.data.text.place import Place, digests_of, far_files, tell_far
from est_cli.data.text.readers import file_kind, refuse_unordered
from est_cli.data.text.repeats import apart, once
from est_cli.data.text.shares import shared_out
from est_cli.data.text.units import drawn_file_units, file_units, stdlib_unit
from est_cli.storage import strict_json


def open_sources(
    dataset: DatasetConfig, cache_root: Path, verify: bool = True, begun: bool = False
) -> list[TextSource]:
    """The documents that `dataset` names (not for source=tokens): one source, or one for each of its weights.

    Without `verify` files that look unchanged are taken to be (see digest.py). Raises DataError and ConfigError;
    `begun`: not for text that is named twice.
    """
    sources = _whole_or_later(dataset, cache_root, verify, begun)
    if not dataset.is_part:
        return sources
    assert not isinstance(dataset.max_tokens, str), "auto is settled before"
    limit = Limit(dataset.max_tokens, dataset.max_documents)
    limits = [limit] if dataset.weights is None else shared_out(limit, dataset.weights)
    return [replace(source, part=limit) for source, limit in zip(sources, limits, strict=True)]


def _whole_or_later(dataset: DatasetConfig, cache_root: Path, verify: bool, begun: bool) -> list[TextSource]:
    """All sources; where a part will be taken, with units that are made when they are needed."""
    if dataset.source is Source.stdlib:
        found = _stdlib_source(Path(sysconfig.get_path("stdlib")))
        unit = found.train[0]
        return [replace(found, train=LaterUnits([unit.size], lambda _: unit))] if dataset.is_part else [found]
    if dataset.source is Source.files:
        return _files_sources(dataset, cache_root, verify, begun)
    assert dataset.source is Source.hub, dataset.source
    if not dataset.hub_ids:
        raise ConfigError("dataset.hub_ids: is empty; name data sets of the hub or folders, for example [user/name]")
    groups = [dataset.hub_ids] if dataset.weights is None else [[name] for name in dataset.hub_ids]
    return [hub_source(dataset, names, cache_root, verify) for names in groups]


def expand(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that paths and globs name, each once, the matches of a glob sorted. Raises DataError naming `key`."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        if is_url(pattern):
            raise DataError(f"{key}: {shown(pattern)} lies elsewhere, and is read from here only; download it")
        path = Path(pattern).expanduser()
        found = (_saved(path) or [path]) if path.exists() else _matches(path)
        if not found:
            raise DataError(f"{key}: {pattern!r} matches no file in {Path.cwd()}{did_you_mean(pattern)}")
        files.update(dict.fromkeys(map(_regular, found)))
    return list(files)


def _wherever(entries: Sequence[str], key: str) -> list[Place]:
    """As `expand`, and addresses of far files among them."""
    found: dict[Place, None] = {}
    for entry in entries:
        far = far_files(entry) if is_url(entry) else expand([entry], key)
        if not far:
            raise DataError(f"{key}: {entry!r} matches no file")
        found.update(dict.fromkeys(far))
    return list(found)


def _saved(folder: Path) -> list[Path]:
    """The files of a folder that `save_to_disk` of `datasets` wrote; none where it is no such folder."""
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(path.parent.name for path in folder.glob("*/state.json"))) or "none"
        raise DataError(f"{folder}: holds several splits; name the folder of one (found here: {splits})")
    try:
        names = [entry["filename"] for entry in strict_json.read_file(folder / "state.json")["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [folder / Path(str(name)).name for name in names]


def _matches(pattern: Path) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if not os.path.isdir(name)]


def _regular(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name its files, for example '{path}/*.txt'")
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file (it is read more than once)")
    return path


def _files_sources(dataset: DatasetConfig, cache_root: Path, verify: bool, begun: bool) -> list[TextSource]:
    if not dataset.files:
        raise ConfigError("dataset.files: is empty; name files of text or rows, for example ['corpus/*.jsonl']")
    groups = [dataset.files] if dataset.weights is None else [[entry] for entry in dataset.files]
    trains = [_wherever(group, "dataset.files") for group in groups]
    _refuse_repeats(trains)
    validation = _wherever(dataset.validation_files, "dataset.validation_files")
    for path in itertools.chain(*trains, validation):
        refuse_unordered(path)
    if verify:
        tell_far([*itertools.chain(*trains), *validation])
    once([path for paths in trains for path in paths], "dataset.files", begun)
    once(validation, "dataset.validation_files", begun)
    held = dict(zip(validation, digests_of(validation, cache_root, verify), strict=True))
    wanted = Wanted(
        dataset.text_fields,
        dataset.exclude,
        dataset.separator or "",
        dataset.articles,
        skip_bad_rows=dataset.skips_bad_rows,
    )
    if wanted.separator and not any(file_kind(path)[0] == ".txt" for path in itertools.chain(*trains, validation)):
        raise ConfigError("dataset.separator: none of dataset.files is a .txt file; a row of the others is a document")
    if wanted.skip_bad_rows and all(file_kind(path)[0] == ".txt" for path in itertools.chain(*trains, validation)):
        raise ConfigError("dataset.on_bad_row: all of dataset.files are .txt files, which have no rows; leave it out")

    def units(contents: dict[Place, str]) -> tuple[Unit, ...]:
        return file_units([*contents], [*contents.values()], wanted)

    named = units(held) if held else None
    names = ["dataset.files"] if dataset.weights is None else dataset.files
    if dataset.is_part:

        def later(paths: list[Place]) -> list[str]:
            return digests_of(paths, cache_root, verify)

        once([*itertools.chain(*trains), *validation], "dataset.validation_files", begun)
        parts = [drawn_file_units(paths, later, wanted, dataset.part_seed) for paths in trains]
        return [TextSource(name, part, named) for name, part in zip(names, parts, strict=True)]
    digests = [dict(zip(paths, digests_of(paths, cache_root, verify), strict=True)) for paths in trains]
    apart(dict(collections.ChainMap(*digests)), held, begun)
    return [TextSource(name, units(train), named) for name, train in zip(names, digests, strict=True)]


def _refuse_repeats(groups: list[list[Place]]) -> None:
    seen: set[Place] = set()
    for group in groups:
        resolved = {path.resolve() if isinstance(path, Path) else path for path in group}
        for path in sorted(resolved & seen, key=str):
            raise DataError(f"dataset.files: {path} is in two entries; with dataset.weights each has files of its own")
        seen |= resolved


def _stdlib_source(root: Path) -> TextSource:
    unit = stdlib_unit(root)
    if not unit.size:
        raise DataError(f"dataset: {root} has no .py files; give your own text with dataset=text dataset.files=[...]")
    return TextSource("dataset=stdlib", (unit,))
