"""Tables in HTML. Whatever comes in is text; nothing of it is taken for markup."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int, last_words: bool = False) -> str:
    """The first `words` columns (and the last one) hold words, the others numbers; a second line is small."""
    kinds = ["word" if index < words else "number" for index in range(len(headings))]
    kinds[-1] = "word" if last_words else kinds[-1]
    head = "".join(f"<th class={kind}>{escape(text)}</th>" for kind, text in zip(kinds, headings, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td class={kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(text: str) -> str:
    first, _, rest = text.partition("\n")
    return escape(first) + (f"<small>{escape(rest)}</small>" if rest else "")
