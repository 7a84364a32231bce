"""Where the text comes from: the standard library, local files, or the hub (hub.py), each as a `Source`.

A fingerprint is made of the bytes of the files, never of names or times: new content under an old name is noticed,
and the same files elsewhere are recognised.
"""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from est_cli.config import DatasetConfig
from est_cli.config import Source as SourceName
from est_cli.data.digest import digest_files, fingerprint
from est_cli.data.hub import hub_source
from est_cli.data.pieces import Advance, Piece, Pieces, Source
from est_cli.data.readers import file_kind, read_file
from est_cli.errors import ConfigError, DataError

NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings"}
"""Folders below the standard library's that are left out: other people's packages, tests, and generated tables."""


def open_source(dataset: DatasetConfig) -> Source:
    """The documents that `dataset` names (not for source=tokens). Raises DataError and ConfigError."""
    if dataset.source is SourceName.stdlib:
        return _stdlib_source(Path(sysconfig.get_path("stdlib")))
    if dataset.source is SourceName.files:
        return _files_source(dataset)
    assert dataset.source is SourceName.hub, dataset.source
    return hub_source(dataset)


def expand(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that paths and globs name, each once, the matches of a glob sorted. Raises DataError naming `key`."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        found = [path] if path.exists() else _matches(path)
        if not found:
            raise DataError(f"{key}: {pattern!r} matches no file in {Path.cwd()}")
        files.update(dict.fromkeys(map(_regular, found)))
    return list(files)


def _matches(pattern: Path) -> list[Path]:
    return [Path(name) for name in sorted(glob.glob(str(pattern), recursive=True)) if not os.path.isdir(name)]


def _regular(path: Path) -> Path:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name its files, for example '{path}/*.txt'")
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file (it is read more than once)")
    return path


def _files_source(dataset: DatasetConfig) -> Source:
    if not dataset.files:
        raise ConfigError("dataset.files: is empty; name .txt, .jsonl or .parquet files, for example ['corpus/*.txt']")
    train = expand(dataset.files, "dataset.files")
    validation = expand(dataset.validation_files, "dataset.validation_files")
    known = {path.resolve() for path in train}
    for path in validation:
        if path.resolve() in known:
            raise DataError(f"dataset.validation_files: {path} is in dataset.files too; no text may be in both")
    kinds = [file_kind(path) for path in (*train, *validation)]
    digests = digest_files(train), digest_files(validation)
    return Source(
        name="dataset.files",
        train=_reading(train, dataset.text_fields),
        validation=_reading(validation, dataset.text_fields) if validation else None,
        fingerprint=fingerprint("files", digests, kinds, dataset.text_fields),
        total=sum(path.stat().st_size for path in (*train, *validation)),
    )


def _reading(paths: list[Path], fields: Sequence[str]) -> Pieces:
    def pieces(advance: Advance) -> Iterator[Piece]:
        for path in paths:
            yield from read_file(path, fields, advance)

    return pieces


def _stdlib_source(root: Path) -> Source:
    """Every .py file below `root` but tests, tables of codecs and installed packages, one document each."""
    paths = sorted(path for path in root.rglob("*.py") if not NOT_STDLIB.intersection(path.relative_to(root).parts))
    if not paths:
        raise DataError(f"dataset: {root} has no .py files; give your own text with dataset=text dataset.files=[...]")

    def pieces(advance: Advance) -> Iterator[Piece]:
        for path in paths:
            data = path.read_bytes()
            advance(len(data))
            try:
                yield Piece(data.decode("utf-8").replace("\r\n", "\n"), ends=True)
            except UnicodeDecodeError:
                continue

    total = sum(path.stat().st_size for path in paths)
    return Source("dataset=stdlib", pieces, None, fingerprint("stdlib", digest_files(paths)), total)
