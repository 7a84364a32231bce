"""Whether a built site loads nothing from elsewhere: `python docs/site_check.py site`.

A link that a reader may follow is fine; a script, style, font or picture of another server is not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

LOADED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "source": ("src", "srcset"),
    "iframe": ("src",),
    "link": ("href",),
}
NAMED_ONLY = {"canonical", "next", "prev", "alternate", "edit"}
"""Kinds of <link> that tell of another page and load nothing."""
_FAR = re.compile(r"^\s*(https?:)?//")
_FAR_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^'\")\s]+")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and NAMED_ONLY & set((given.get("rel") or "").split()):
            return
        self.found += [value for key in LOADED.get(tag, ()) if _FAR.match(value := given.get(key) or "")]
        if "mermaid" in (given.get("class") or "").split():  # the theme would load its script from a CDN
            self.found.append("a diagram in Mermaid's language")


def loads(path: Path) -> list[str]:
    """What a page or a style sheet has the browser load from another server."""
    text = path.read_text()
    page = _Page()
    if path.suffix == ".html":
        page.feed(text)
    return page.found + _FAR_STYLE.findall(text)


def problems(site: Path) -> Iterator[str]:
    """A line for each thing that a file of the site loads from elsewhere."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for what in loads(path):
            yield f"{path}: loads {what}"


if __name__ == "__main__":
    if told := list(problems(Path(sys.argv[1]))):
        sys.exit("\n".join(told))
