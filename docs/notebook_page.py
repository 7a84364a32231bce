"""The notebook of the first tutorial: `python docs/notebook_page.py > docs/tutorials/first_run.ipynb`.

Its text and its commands are those of docs/tutorials/first-run.md; only the cell that installs est is added.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
TUTORIAL = DOCS / "tutorials" / "first-run.md"
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SMALLER = re.compile(r"^<!-- make test-docs: (\S+) -> (.+) -->$", re.MULTILINE)
_COMMENT = re.compile(r"^<!--.*?-->\n*", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", re.DOTALL)

HEAD = """\
Run the cells in their order. A CPU is enough. If this notebook runs on a computer that somebody lends you, such as
Colab, choose a GPU there to make it faster."""
NO_ADDRESS = "The repository has no public address yet. Put the address of the copy that you use for `REPOSITORY`."


def page() -> str:
    """The whole notebook, as JSON."""
    text = TUTORIAL.read_text()
    title, _, rest = _COMMENT.sub("", text).partition("\n")
    cells = [_text(f"{title}\n\n{HEAD}"), *_install(), *_cells(rest)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "smaller": dict(_SMALLER.findall(text))}  # what run_notebook.py replaces
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1) + "\n"


def _install() -> Iterator[dict[str, object]]:
    urls = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"].get("urls", {})
    address = urls.get("Repository", "REPOSITORY")
    yield _text("## Install" + ("" if "Repository" in urls else f"\n\n{NO_ADDRESS}"))
    yield _code(f"%pip install -q 'est-cli @ git+{address}'") | {"metadata": {"tags": ["install"]}}


def _cells(text: str) -> Iterator[dict[str, object]]:
    """Text and code in turns. Links lead to other pages of the docs, which a notebook has not beside it."""
    end = 0
    for block in _BLOCK.finditer(text):
        yield from _prose(text[end : block.start()])
        yield _code(("%%bash\n" if block[1] == "sh" else "") + block[2].strip())
        end = block.end()
    yield from _prose(text[end:])


def _prose(text: str) -> Iterator[dict[str, object]]:
    if text := _LINK.sub(r"*\1*", text).strip():
        yield _text(text)


def _text(text: str) -> dict[str, object]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str) -> dict[str, object]:
    lines = text.splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}


if __name__ == "__main__":
    print(page(), end="")
