"""Units of work: how files are grouped and cut into them, and how each kind is read.

A unit is small enough that little is lost when its reading is interrupted, and large enough that there are few of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from est_cli.data.text.pieces import MAX_UNITS, UNIT_BYTES, Advance, LaterUnits, Piece, Unit, Wanted
from est_cli.data.text.place import Place, check_unchanged, place, size_of, state_of
from est_cli.data.text.readers import ByteSpan, can_be_cut, digest_span, file_kind, read_file
from est_cli.data.text.shares import drawn
from est_cli.storage.digest import digest_files, fingerprint

NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "encodings"}
"""Folders below the standard library's that are left out: other people's packages, tests, and generated tables."""

FilePart = tuple[str, ByteSpan | None]
"""A path and, where the file is cut, the bytes of it that are meant."""


def read_unit(unit: Unit, advance: Advance) -> Iterator[Piece]:
    """The documents of a unit, in their order. Raises DataError."""
    return READERS[unit.kind](advance, **unit.arguments)


def read_units(units: Sequence[Unit], advance: Advance) -> Iterator[Piece]:
    """The documents of one unit after the other."""
    return itertools.chain.from_iterable(read_unit(unit, advance) for unit in units)


def file_units(paths: Sequence[Place], digests: Sequence[str], wanted: Wanted) -> tuple[Unit, ...]:
    """The documents of these files in units; `digests` are those of their bytes."""
    total, size = sum(map(size_of, paths)), UNIT_BYTES
    while total > MAX_UNITS * size:
        size *= 2
    digest_of = dict(zip(map(str, paths), digests, strict=True))
    groups = [*_gathered(_parts(paths, size), size, spans_alone=True)]
    return tuple(_file_unit(group, [(digest_of[path], span) for path, span in group], wanted) for group in groups)


def drawn_file_units(
    paths: Sequence[Place], digests_of: Callable[[list[Place]], list[str]], wanted: Wanted, seed: int
) -> LaterUnits:
    """The same documents in an order of files, and of spans of large ones, that is drawn from `seed`.

    `digests_of` is asked for the files of a unit when that is made; of a span its own bytes count.
    """
    parts = drawn([*_parts(paths, UNIT_BYTES)], seed)
    units = [*_gathered(parts, UNIT_BYTES)]

    def make(number: int) -> Unit:
        whole = [place(path) for path, span in units[number] if span is None]
        digest_of = dict(zip(map(str, whole), digests_of(whole) if whole else (), strict=True))
        contents = [
            (digest_of[path], False) if span is None else (digest_span(place(path), span), span[0] > 0)
            for path, span in units[number]
        ]
        return _file_unit(units[number], contents, wanted)

    return LaterUnits([sum(map(_part_size, unit)) for unit in units], make)


def stdlib_unit(root: Path) -> Unit:
    """Every .py file below `root` but tests, tables of codecs and installed packages, one document each."""
    paths = _python_files(root)
    return Unit("stdlib", {"root": str(root)}, fingerprint("stdlib", digest_files(paths)), sum(map(size_of, paths)))


def _parts(paths: Sequence[Place], size: int) -> Iterator[FilePart]:
    """The files, large ones in spans of about `size` bytes where that can be."""
    for path in paths:
        length = size_of(path)
        if length <= size or not can_be_cut(path):
            yield str(path), None
            continue
        count = -(-length // size)
        for span in itertools.pairwise(length * number // count for number in range(count + 1)):
            yield str(path), span


def _gathered(parts: Iterable[FilePart], size: int, spans_alone: bool = False) -> Iterator[list[FilePart]]:
    """Neighbours together up to about this size, in their order; `spans_alone`: whole files only."""
    group: list[FilePart] = []
    filled = 0
    for part in parts:
        length = _part_size(part)
        alone = spans_alone and group and (part[1] is not None or group[-1][1] is not None)
        if group and (alone or filled + length > size):
            yield group
            group, filled = [], 0
        group.append(part)
        filled += length
    if group:
        yield group


def _file_unit(group: list[FilePart], contents: Sequence[tuple[str, Any]], wanted: Wanted) -> Unit:
    """What a file is called has no say in the fingerprint, but its kind has; `contents`: a digest, and of what."""
    known = [[digest, *file_kind(place(path)), span] for (digest, span), (path, _) in zip(contents, group, strict=True)]
    size = sum(map(_part_size, group))
    settings = wanted.settings
    stats = [state_of(place(path)) for path, _ in group]
    arguments = {"parts": group, "stats": stats, **settings, "key": wanted.key}
    return Unit("files", arguments, fingerprint("files", known, settings), size)


def _part_size(part: FilePart) -> int:
    path, span = part
    return size_of(place(path)) if span is None else span[1] - span[0]


def _python_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if not NOT_STDLIB.intersection(path.relative_to(root).parts))


def _read_files(advance: Advance, parts: Sequence[FilePart], stats: Sequence[str], **settings: Any) -> Iterator[Piece]:
    wanted = Wanted(**settings)
    for (path, span), stat in zip(parts, stats, strict=True):
        yield from read_file(place(path), wanted, advance, None if span is None else (span[0], span[1]))
        check_unchanged(place(path), stat)


def _read_stdlib(advance: Advance, root: str) -> Iterator[Piece]:
    for path in _python_files(Path(root)):
        data = path.read_bytes()
        advance(len(data))
        try:
            yield Piece(data.decode("utf-8").replace("\r\n", "\n"), ends=True)
        except UnicodeDecodeError:
            continue


def _read_hub(advance: Advance, **arguments: Any) -> Iterator[Piece]:
    from est_cli.data.text.hub import read_shard  # for those only who need it

    return read_shard(advance, **arguments)


READERS: dict[str, Callable[..., Iterator[Piece]]] = {
    "files": _read_files,
    "stdlib": _read_stdlib,
    "hub": _read_hub,
}
