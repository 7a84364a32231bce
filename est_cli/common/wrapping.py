"""Long lines on a terminal, broken between words. Standard library only."""

from __future__ import annotations

import re
from textwrap import TextWrapper

INDENT = 2
"""Of a line's continuation."""
_NAME = re.compile(r"\w+ {2,12}(?=\S)")


def at_words(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters; below `name      words` the words go on where they began.

    A word that is longer than a line, such as a path, is broken by the terminal alone, which copies it whole.
    """
    return "\n".join(_wrapped(line, width) for line in text.split("\n"))


def _wrapped(line: str, width: int) -> str:
    name = _NAME.match(line)
    indent = " " * (len(name[0]) if name else INDENT)
    wrap = TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    wrap.replace_whitespace = False
    return wrap.fill(line)
