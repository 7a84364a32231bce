"""The tutorials of docs/ do what they say (`make test-docs`); that their commands can be typed is looked at always."""

from __future__ import annotations

import ast
import errno
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from est_cli.cli.command import command_named
from est_cli.config.command_line import parse
from est_cli.config.compose import checked_overrides, composed
from est_cli.config.groups import groups_of
from tests.lab.tutorials import Block, Reader, blocks, not_shown

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))
TYPED = [*PAGES, *sorted((DOCS / "start").glob("*.md")), DOCS / "troubleshooting.md", DOCS / "faq.md"]
OURS = ("est-train", "est-plan", "est-eval", "est-analyze", "est-data")
wanted = pytest.mark.skipif(os.environ.get("EST_TUTORIALS") != "1", reason="make test-docs")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Our commands first, one cache of tokens for all pages, no network."""
    programs = Path(sys.executable).parent
    return {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "EST_DATA_CACHE": str(tmp_path_factory.mktemp("tokens")),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }


@wanted
@pytest.mark.processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_does_what_it_says(page: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    Reader(tmp_path, environment).follow(page)


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(command, arguments) of each line of the page's shell blocks that starts one of ours."""
    for block in blocks(page.read_text()):
        if block.kind == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith(OURS) and "--version" not in line:
                    name, *words = shlex.split(line, comments=True)
                    yield name, words


@pytest.mark.parametrize("page", TYPED, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_commands_can_be_typed(page: Path) -> None:
    for name, words in commands(page):
        command = command_named(name.removeprefix("est-"))
        line = parse([name, *words], command.schema)
        settings = [word for word in line.overrides if not word.startswith("hydra")]  # those of a sweep, a launcher's
        checked_overrides(settings, command.schema, groups_of(command.schema, None), sweeping=line.multirun)
        if not line.multirun:
            composed(command.name, command.schema, line.overrides, line.config_dir)


def test_commands_are_found() -> None:
    found = [name for page in TYPED for name, _ in commands(page)]
    assert len(found) > 30 and set(found) == set(OURS)


def message_patterns() -> Iterator[str]:
    """The texts of the code with anything where a value is filled in, and the system's word for a full disk."""
    yield os.strerror(errno.ENOSPC)
    for path in (DOCS.parent / "est_cli").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else None for part in parts
            ]
            if sum(map(len, filter(None, texts))) >= 15:  # shorter ones are in many lines
                yield "".join(".*" if text is None else re.escape(text) for text in texts)


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    """So that a search for what was seen finds the page."""
    shown = [block for block in blocks((DOCS / "troubleshooting.md").read_text()) if block.kind == "console"]
    lines = [line for block in shown for line in block.text.splitlines()]
    patterns = [re.compile(pattern) for pattern in message_patterns()]
    assert len(lines) > 15
    assert [line for line in lines if not any(pattern.search(line) for pattern in patterns)] == []


def test_blocks_are_found_with_what_is_replaced() -> None:
    page = "<!-- make test-docs: n=9 -> n=1 -->\n# T\n```sh\na n=9\n```\n<!-- make test-docs: not run, so -->\n"
    assert list(blocks(page + "```python\nn=9\n```\n")) == [
        Block("sh", "a n=1\n", 4),
        Block("python", "n=1\n", 8, left_out=True),
    ]


@pytest.mark.parametrize("comment", ["n=9 -> n=1", "runs"])
def test_a_comment_that_does_nothing_is_an_error(comment: str) -> None:
    with pytest.raises(ValueError, match=re.escape(comment.partition(" ")[0])):
        list(blocks(f"<!-- make test-docs: {comment} -->\n```sh\na\n```\n"))


def test_output_is_compared_by_its_words() -> None:
    assert list(not_shown("loss 1.5\nmodel 3", "run\nloss  2.25\nmodel 4")) == []
    assert list(not_shown("loss 1.5\nmodel 3", "model 4\nloss  2.25")) == ["model 3"]
    assert list(not_shown("loss of it", "loss of that")) == ["loss of it"]


@pytest.mark.parametrize(("text", "says"), [("false", "exit code 1"), ("echo one\n```\n\n```text\ntwo", "not shown")])
def test_a_page_that_is_wrong_fails(text: str, says: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```sh\n{text}\n```\n")
    with pytest.raises(AssertionError, match=f"page.md:[26].*{says}"):
        Reader(tmp_path, {}).follow(page)


def test_python_blocks_share_their_names(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\na = 1\n```\n\n```python\nprint('a is', a)\n```\n\n```text\na is 1\n```\n")
    Reader(tmp_path, {}).follow(page)


def test_the_notebook_is_the_first_tutorial() -> None:
    made = runpy.run_path(str(DOCS / "notebook_page.py"))["page"]()
    told = "python docs/notebook_page.py > docs/tutorials/first_run.ipynb makes it anew"
    assert (DOCS / "tutorials" / "first_run.ipynb").read_text() == made, told
