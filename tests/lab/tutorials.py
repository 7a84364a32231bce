"""Runs the pages of docs/tutorials/ as a reader would: every block, in order, in one folder. `make test-docs` does it.

A block of `sh` is run by bash, one of `python` in one interpreter for the whole page. A block of `text` is what the
block before it shows: its lines must come again, with the same words; numbers may differ. Comments in a page say what
is different here, on a line of their own:

    <!-- make test-docs: train.max_steps=100 -> train.max_steps=8 -->    in all blocks behind it
    <!-- make test-docs: not run, it downloads -->                       the next block
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_S = 600
_PART = re.compile(r"^<!-- make test-docs: (?P<rule>.+?) -->$|^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
_WORD = re.compile(r"[A-Za-z][A-Za-z_-]*")


@dataclass(frozen=True)
class Block:
    """A block of code of a page: its kind, its text with what test-docs replaces, its first line in the page."""

    kind: str
    text: str
    line: int
    left_out: bool = False


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order. ValueError of a replacement that replaces nothing."""
    replaced: dict[str, str] = {}
    unused: set[str] = set()
    left_out = False
    for part in _PART.finditer(page):
        if part["rule"] is None:
            text = part["text"]
            for old, new in replaced.items():
                unused -= {old} if old in text else set()
                text = text.replace(old, new)
            yield Block(part["kind"], text, page[: part.start("text")].count("\n") + 1, left_out)
            left_out = False
        elif part["rule"].startswith("not run"):
            left_out = True
        else:
            old, arrow, new = part["rule"].partition(" -> ")
            if not arrow:
                raise ValueError(f"{part['rule']!r} is neither `not run ...` nor `THIS -> THAT`")
            replaced[old] = new
            unused.add(old)
    if unused:
        raise ValueError(f"{sorted(unused)[0]!r} is in no block behind its comment")


@dataclass
class Reader:
    """Somebody who types what a page says into a shell that stands in `folder`."""

    folder: Path
    environment: Mapping[str, str]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def follow(self, page: Path) -> None:
        """Runs a page from top to bottom. AssertionError, naming page and line, of a block that fails or shows else."""
        shown = ""
        for block in blocks(page.read_text()):
            where = f"{page}:{block.line}"
            if block.left_out:
                shown = ""
            elif block.kind == "sh":
                shown = self._typed(block.text, where)
            elif block.kind == "python":
                shown = self._run(block.text, where)
            elif block.kind == "text" and shown:
                missing = list(not_shown(block.text, shown))
                assert not missing, f"{where}: not shown: {missing[0]!r}\n{shown[-4000:]}"

    def _typed(self, text: str, where: str) -> str:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            cwd=self.folder, env={**os.environ, **self.environment}, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: exit code {done.returncode}\n{done.stdout[-4000:]}"
        return done.stdout

    def _run(self, text: str, where: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.chdir(self.folder):
            exec(compile(text, where, "exec"), self.names)  # noqa: S102  (the text of our own pages)
        return shown.getvalue()


def not_shown(expected: str, output: str) -> Iterator[str]:
    """The lines of `expected` whose words are those of no line of `output`, each looked for behind the one before."""
    lines = [_WORD.findall(line) for line in output.splitlines()]
    for line in expected.splitlines():
        words = _WORD.findall(line)
        if words and words not in lines:
            yield line
        elif words:
            lines = lines[lines.index(words) + 1 :]
