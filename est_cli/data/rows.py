"""A row of a table or a line of JSON to a document: which field is its text, and which rows are left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from est_cli.common.errors import DataError
from est_cli.data.pieces import Piece


@dataclass(frozen=True)
class Wanted:
    """`fields`: the first of these that a row has is its text. `exclude`: rows with one of these values are left out.

    An entry of `exclude` is `field=value`; dots in the field lead into nested objects. A value that is no string is
    compared as JSON writes it (3, true, null).
    """

    fields: Sequence[str]
    exclude: Sequence[str] = ()

    @property
    def deciding(self) -> list[str]:
        """The columns that `exclude` looks into."""
        return [entry.partition("=")[0].partition(".")[0] for entry in self.exclude]

    def columns(self, names: Sequence[str], where: str) -> list[str]:
        """Those of the columns `names` that have to be read: that of the text first. Raises DataError."""
        text = present(names, self.fields, where)
        return [text, *(name for name in names if name != text and name in self.deciding)]


def document(row: Any, wanted: Wanted, where: str) -> Piece:
    """One row as a document. Raises DataError, starting with `where`."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be a JSON object, this one is of type {type(row).__name__}")
    if any(_has(row, entry) for entry in wanted.exclude):
        return Piece("", ends=True, excluded=True)
    text = row[present(row, wanted.fields, where)]
    if not isinstance(text, str):
        raise DataError(f"{where}: the text must be a string, it is of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the text has half a surrogate pair, which is no Unicode character") from error
    return Piece(text, ends=True)


def present(names: Iterable[str], fields: Sequence[str], where: str) -> str:
    """The first of `fields` among `names`."""
    names = list(names)
    for field in fields:
        if field in names:
            return field
    have = ", ".join(repr(name[:40]) for name in names[:10]) or "none"
    raise DataError(f"{where}: no field {' or '.join(fields)} (dataset.text_fields); the fields here are: {have}")


def _has(row: dict[str, Any], entry: str) -> bool:
    path, _, value = entry.partition("=")
    found: Any = row
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return value == (found if isinstance(found, str) else json.dumps(found, default=str))
