"""What makes a site of the docs (`make docs`), as far as it can be seen without mkdocs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from est_cli import est

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
HOOKS = runpy.run_path(str(DOCS / "site_hooks.py"))


def in_nav(entry: object) -> list[str]:
    if isinstance(entry, dict | list):
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in in_nav(part)]
    return [str(entry)]


def test_every_page_is_in_the_menu() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    menu = in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert {page for page in menu if not page.startswith("source/")} == pages
    assert len(menu) == len(set(menu))


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize(
    ("page", "target", "in_repository", "in_site"),
    [
        ("data.md", "glue.md", "docs/glue.md", "glue.md"),
        ("data.md", "../SECURITY.md", "SECURITY.md", "source/SECURITY.md"),
        ("start/gpu.md", "../../examples/mlp.py", "examples/mlp.py", "source/examples/mlp.py"),
        ("results/study-a.md", "data/a", "docs/results/data/a", "results/data/a/index.md"),
        ("source/README.md", "docs/data.md", "docs/data.md", "data.md"),
        ("data.md", "../../elsewhere", None, None),
        ("data.md", "missing.md", None, None),
    ],
)
def test_a_link_has_its_place_in_the_site(
    page: str, target: str, in_repository: str | None, in_site: str | None
) -> None:
    found = HOOKS["meant"](page, target)
    assert (found, found and HOOKS["in_site"](found)) == (in_repository, in_site)


def test_the_api_pages_have_every_public_name() -> None:
    shown = set(re.findall(r"^::: est_cli\.est\.(\w+)$", (DOCS / "api" / "est.md").read_text(), re.MULTILINE))
    assert shown == {*est.__all__} - {"FULL"}  # which Subnetwork tells of


def test_lists_are_set_apart() -> None:
    written = "Text:\n- a\n  goes on\n  - b\n- c\n\nText\n1. d\n```sh\nx\n- e\n```\n# T\n- f\n"
    wanted = "Text:\n\n- a\n  goes on\n    - b\n- c\n\nText\n\n1. d\n```sh\nx\n- e\n```\n# T\n\n- f\n"
    assert HOOKS["lists_apart"](written) == wanted


def test_the_diagram_is_a_list() -> None:
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", (DOCS / "architecture.md").read_text(), re.DOTALL)
    assert HOOKS["boxes"](diagram).count("<li>") == diagram.count("-->") + 1 > 5
    assert HOOKS["boxes"]('a["x & y<br>z"]\nb["w"]\nb --> a\n').splitlines()[2] == "<li><b>x &amp; y</b><br>z</li>"


@pytest.mark.parametrize(
    ("text", "loaded"),
    [
        ('<a href="https://example.org">there</a><script src="own.js"></script>', []),
        ('<link rel="canonical" href="https://example.org/">', []),
        ('<script src="https://example.org/a.js"></script>', ["https://example.org/a.js"]),
        ('<link rel="stylesheet" href="//example.org/a.css">', ["//example.org/a.css"]),
        ('<img src="a.png"><img src="http://example.org/a.png">', ["http://example.org/a.png"]),
        ("<style>a { background: url('https://example.org/a.png') }</style>", ["url('https://example.org/a.png"]),
        ('<pre class="mermaid"></pre>', ["a diagram in Mermaid's language"]),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_found(text: str, loaded: list[str], tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(text)
    assert runpy.run_path(str(DOCS / "site_check.py"))["loads"](tmp_path / "page.html") == loaded
