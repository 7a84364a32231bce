"""Files that a run would read twice, or both train and validate on: told by content, whatever they are called.

A run that has begun is never refused for it: what its numbers mean is told, and they stay comparable among themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from est_cli.common.errors import DataError
from est_cli.data.text.place import Place, size_of
from est_cli.data.text.readers import file_kind

log = logging.getLogger(__name__)


def refuse_or_tell(problem: str, begun: bool) -> None:
    """DataError, or a warning in a run that has begun."""
    if not begun:
        raise DataError(problem)
    log.warning("%s; it began so, and goes on", problem)


def once(paths: Sequence[Place], key: str, begun: bool) -> None:
    """Refuse a file that is met twice, by links of either kind or by two names; addresses are not looked at."""
    seen: dict[tuple[int, int], Path] = {}
    for path in (each for each in paths if isinstance(each, Path)):
        stat = path.stat()
        other = seen.setdefault((stat.st_dev, stat.st_ino), path)
        if other is not path:
            refuse_or_tell(f"{key}: {path} is the file {other} once more; name it once", begun)


def apart(train: Mapping[Place, str], held: Mapping[Place, str], begun: bool) -> None:
    """Refuse a file of validation that has the content of one to train on; {path: digest of its bytes}."""
    names = {_text(path, digest): path for path, digest in train.items()}
    for path, digest in held.items():
        other = names.get(_text(path, digest))
        if other is not None and size_of(path):
            what = f"dataset.validation_files: {path} is in dataset.files too ({other} has its content)"
            refuse_or_tell(f"{what}; no text may be in both", begun)
    copies = len(train) - len(names)
    if copies:
        log.warning("dataset.files: %d of %d files have the content of another one", copies, len(train))


def _text(path: Place, digest: str) -> tuple[Any, ...]:
    """The same bytes are another text where they are read in another way."""
    return digest, *file_kind(path)
