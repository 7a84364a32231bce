"""A file of text wherever it lies: a Path here, a FarFile elsewhere.

What a server says of a far file is asked once and remembered in this process; `check_unchanged` asks anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from est_cli.common.errors import DataError
from est_cli.common.urls import is_url
from est_cli.data.text.far import FarFile, ask, find
from est_cli.data.text.far.file import changed
from est_cli.storage.digest import remembered_digests, stat_of

log = logging.getLogger(__name__)

Place = Path | FarFile

_asked: dict[str, FarFile] = {}


def far_files(pattern: str) -> list[FarFile]:
    """The files that an address or a glob of addresses means, as their servers describe them now. Raises DataError."""
    found = find(pattern)
    _asked.update({file.url: file for file in found})
    return found


def place(name: str) -> Place:
    """What `str` has made a name of. Raises DataError where a server does not answer."""
    if not is_url(name):
        return Path(name)
    if name not in _asked:
        _asked[name] = ask(name)
    return _asked[name]


def size_of(where: Place) -> int:
    """Bytes."""
    return where.size if isinstance(where, FarFile) else where.stat().st_size


def state_of(where: Place) -> str:
    """Which file it is, and whether it has changed: see `stat_of`."""
    return where.state if isinstance(where, FarFile) else stat_of(where)


def check_unchanged(where: Place, state: str) -> None:
    """Raise DataError where a file is not what `state_of` said of it; a server is asked."""
    if isinstance(where, FarFile):
        where = _asked[where.url] = ask(where.url)
        if where.state != state:
            raise changed(where)
    elif stat_of(where) != state:  # or these tokens would be kept as those of another text
        raise DataError(f"{where}: has changed while it was read; start again")


def digests_of(places: Sequence[Place], cache_root: Path, verify: bool) -> list[str]:
    """The digest of the bytes of each file here, and what stands for it of each far one."""
    here = [where for where in places if isinstance(where, Path)]
    known: Iterator[str] = iter(remembered_digests(here, cache_root, verify) if here else ())
    return [where.digest if isinstance(where, FarFile) else next(known) for where in places]


def tell_far(places: Sequence[Place]) -> None:
    """Say by what the far ones among them are known."""
    far = [where for where in places if isinstance(where, FarFile)]
    if far:
        kinds = " or ".join(sorted({file.tag.partition(" ")[0] for file in far}))
        log.info("%d of %d files lie elsewhere; known by address, size and %s", len(far), len(places), kinds)
