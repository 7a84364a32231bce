"""The settings that the documents tell people to type can be typed."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from est_cli.config import AnalyzeConfig, EvalConfig, PlanConfig, SurveyConfig
from est_cli.config.compose import checked_overrides, parsed_override
from est_cli.config.groups import options_of_groups
from est_cli.config.setting import settings_of

ROOT = Path(__file__).parent.parent
OTHERS = {ROOT / "docs" / "glue.md", ROOT / "docs" / "settings.md"}
"""One whose settings are those of another command, and one that is made of the settings themselves."""
DOCUMENTS = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - OTHERS)
GROUPS = options_of_groups(str(ROOT / "examples" / "own_family" / "conf"))
GROUPS["scheduler"] = [*GROUPS["scheduler"], "two_stage"]  # of that example, where it is installed
_COMMAND = re.compile(r"est-train|est-plan|est_cli\.train")
_SPAN = re.compile(r"`([^`\n]+)`")
_SETTING = re.compile(r"[a-z][a-z0-9_./]*=\S")


def commands(text: str) -> Iterator[str]:
    """Code between backticks, and lines of code blocks that call a command of ours, with the lines they go on in."""
    yield from _SPAN.findall(text)
    for line in text.replace("\\\n", " ").splitlines():
        if _COMMAND.search(line) and "`" not in line and line.startswith((" ", "est-", "$")):
            yield line


def settings(text: str) -> Iterator[str]:
    """What the shell would hand over as KEY=VALUE of est-train or est-plan."""
    for command in commands(text):
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # half a command, in running text
            continue
        for word in words:
            key = word.partition("=")[0]
            if _SETTING.match(word) and "..." not in word and (key in GROUPS or key.partition(".")[0] in GROUPS):
                yield word


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_settings_in_the_documents_can_be_typed(document: Path) -> None:
    for text in settings(document.read_text()):
        parsed_override(text)
        checked_overrides([text], PlanConfig, GROUPS, sweeping=True)


def test_settings_are_found() -> None:
    found = {text for document in DOCUMENTS for text in settings(document.read_text())}
    assert len(found) > 40
    assert {"dataset.weights=[7,3]", "stage.t1=0.1,0.5", "train.micro_batch=4", "launch.num_processes=8"} <= found
    assert "dataset.exclude=['meta.redpajama_set_name=RedPajamaGithub']" in found


def test_keys_in_the_documents_are_there() -> None:
    """Also those that stand alone, as `train.eval_every` does."""
    known = {key for schema in (PlanConfig, EvalConfig, AnalyzeConfig, SurveyConfig) for key in settings_of(schema)}
    groups = {key.partition(".")[0] for key in known if "." in key}
    named = re.compile(rf"`((?:{'|'.join(sorted(groups))})\.[a-z_0-9]+)=?[^`]*`")
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = {(path.name, key) for path in pages for key in named.findall(path.read_text())}
    assert len(found) > 200
    assert {(name, key) for name, key in found if key not in known} == set()


def test_the_page_of_settings_is_what_the_fields_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "settings_page.py"))["page"]()
    told = "python docs/settings_page.py > docs/settings.md makes it anew"
    assert (ROOT / "docs" / "settings.md").read_text() == made, told


def test_the_picture_of_the_method_is_what_the_method_draws() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "method_picture.py"))["picture"]()
    assert (ROOT / "docs" / "method.svg").read_text("utf-8") == made, "python docs/method_picture.py docs/method.svg"
