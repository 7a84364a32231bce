"""Documents that are neither a file nor a row: between separators in a .txt file, or wikitext's articles of lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from est_cli.data.text.pieces import Piece

HELD_CHARACTERS = 1_000_000
"""A longer document leaves in several pieces."""

TITLE = re.compile(r"\s?= [^=\s](?:.*\S)? =\s*")
"""A heading of the first level; ` = = Section = = ` is of the second."""


def separated(pieces: Iterator[Piece], separator: str) -> Iterator[Piece]:
    """The documents between `separator`s in the one document that `pieces` are, without the line ends around them."""
    held, begun, some = "", False, False
    for piece in pieces:
        *documents, held = (held + piece.text).split(separator)
        for text in documents:
            yield Piece((text if begun else text.lstrip("\n")).rstrip("\n"), ends=True)
            begun, some = False, True
        if len(held) > HELD_CHARACTERS and not piece.ends:
            # What is kept back may be the beginning of a separator, or line ends before one.
            text = held[: -len(separator)].rstrip("\n")
            held = held[len(text) :]
            yield Piece(text if begun else text.lstrip("\n"), ends=False)
            begun = True
    if begun or held.strip("\n") or not some:
        yield Piece((held if begun else held.lstrip("\n")).rstrip("\n"), ends=True)


def lines(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Each line of the document that `pieces` are, as a row of a table would be."""
    held = ""
    for piece in pieces:
        *whole, held = (held + piece.text).split("\n")
        yield from (Piece(line, ends=True) for line in whole)
    if held:
        yield Piece(held, ends=True)


def articles(rows: Iterator[Piece]) -> Iterator[Piece]:
    """The articles whose lines `rows` are: each begins with a title, behind a blank line or at the beginning.

    Blank lines around an article are left out.
    """
    held: list[str] = []
    blanks: list[str] = []
    left_out: list[Piece] = []
    begun, size = False, 0
    for row in rows:
        if row.is_left_out:
            left_out.append(row)
            continue
        line = row.text.rstrip("\n") + "\n"
        if not line.strip():
            blanks.append(line)
            continue
        if (held or begun) and blanks and TITLE.fullmatch(row.text):
            yield Piece("".join(held), ends=True)
            yield from left_out
            held, left_out, blanks, begun, size = [], [], [], False, 0
        held += [*(blanks if held or begun else ()), line]
        size += len(line) + len(blanks)
        blanks = []
        if size > HELD_CHARACTERS:
            yield Piece("".join(held), ends=False)
            held, begun, size = [], True, 0
    if held or begun:
        yield Piece("".join(held), ends=True)
    yield from left_out
