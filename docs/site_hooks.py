"""Hooks of mkdocs: what makes a site of pages that were written for GitHub (mkdocs.yml names this file).

Files outside of docs/ that pages point to come along under source/: a link leads to the same file in both places.
The one diagram in Mermaid's language, which GitHub draws, becomes a list: no script has to be loaded for it.
Lists are written as GitHub reads them, with no empty line before them and two spaces before a list in a list; the
library that mkdocs uses wants an empty line and four.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
SOURCE = "source"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Files beside docs/ that are pages of the site whether another page points to them or not."""
_TARGET = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BOX = re.compile(r'^ *(\w+)\["(.*)"\]$', re.MULTILINE)
_MADE = re.compile(r"/__pycache__/|\.egg-info/|/\.")
_FENCE = re.compile(r"^ *```")
_ITEM = re.compile(r"^( *)([-*]|\d+\.) ")
_CHAIN = re.compile(r"^ *(\w+(?: --> \w+)+)$", re.MULTILINE)


def in_repository(page: str) -> str:
    """A page or file of the site, as a path from the repository's root."""
    return page.removeprefix(f"{SOURCE}/") if page.startswith(f"{SOURCE}/") else f"docs/{page}"


def in_site(path: str) -> str:
    """A path from the repository's root, as one inside the site; of a folder its list of files."""
    place = path.removeprefix("docs/") if path.startswith("docs/") else f"{SOURCE}/{path}"
    return f"{place}/index.md" if (ROOT / path).is_dir() else place


def meant(page: str, target: str) -> str | None:
    """What a page's link points to, from the repository's root; None where that is nothing of the repository."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository(page)), target))
    return path if (ROOT / path).exists() and not path.startswith("..") else None


def on_files(files: Files, config: Any) -> Files:
    """Brings along what pages point to: files outside of docs/, and folders with a list of their files."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    texts |= {f"{SOURCE}/{name}": (ROOT / name).read_text() for name in PAGES}
    targets = {meant(page, target) for page, text in texts.items() for _, target, _ in _TARGET.findall(text)}
    for path in sorted({*PAGES, *filter(None, targets)}):
        inside = inside_of(path) if (ROOT / path).is_dir() else []
        if inside:
            files.append(_brought(config, path, content=listing(path, inside)))
        for name in inside or [path]:
            if not name.startswith("docs/") and files.get_file_from_path(in_site(name)) is None:
                files.append(_brought(config, name, abs_src_path=str(ROOT / name)))
    return files


def _brought(config: Any, path: str, **content: str) -> File:
    from mkdocs.structure.files import File, InclusionLevel  # here, so that the rest can be tried without mkdocs

    return File.generated(config, in_site(path), inclusion=InclusionLevel.NOT_IN_NAV, **content)


def inside_of(folder: str) -> list[str]:
    """The files of a folder that are in the repository, from its root."""
    paths = sorted(path for path in (ROOT / folder).rglob("*") if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in paths if not _MADE.search(path.as_posix())]


def listing(folder: str, names: list[str]) -> str:
    """A page with links to the files of a folder."""
    inside = [posixpath.relpath(name, folder) for name in names]
    return "\n".join([f"# {folder}", "", *(f"- [{name}]({name})" for name in inside)])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points links to where their files are in the site, draws the diagram, and has lists found as lists."""
    uri = page.file.src_uri

    def pointed(found: re.Match[str]) -> str:
        path = meant(uri, found[2])
        target = found[2] if path is None else posixpath.relpath(in_site(path), posixpath.dirname(uri) or ".")
        return f"{found[1]}{target}{found[3]}"

    return _MERMAID.sub(lambda found: boxes(found[1]), lists_apart(_TARGET.sub(pointed, markdown)))


def lists_apart(markdown: str) -> str:
    """An empty line before each list, and four spaces before a list in a list; code stays as it is."""
    lines: list[str] = []
    code = in_list = False
    for line in markdown.splitlines():
        code ^= bool(_FENCE.match(line))
        item = None if code else _ITEM.match(line)
        if item and not in_list and not item[1] and lines and lines[-1]:
            lines.append("")
        if item and in_list and 0 < len(item[1]) < 4:
            line = "    " + line.lstrip()
        ends = line.startswith("#") or (line and line[0] != " " and not (lines and lines[-1]))
        in_list = bool(item) or (in_list and not ends)
        lines.append(line)
    return "\n".join([*lines, ""])


def boxes(diagram: str) -> str:
    """A flowchart that is one chain, as a list in HTML: a box for each step, from top to bottom."""
    (chain,) = _CHAIN.findall(diagram)
    texts = dict(_BOX.findall(diagram))
    items = []
    for step in chain.split(" --> "):
        name, *rest = re.split(r"<br ?/?>", texts[step])
        items.append("<br>".join([f"<b>{html.escape(name)}</b>", *map(html.escape, rest)]))
    return "\n".join(['<ol class="chain">', *(f"<li>{item}</li>" for item in items), "</ol>"])
