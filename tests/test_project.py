"""The files around the code agree with each other: what is told twice is told alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import est_cli

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")
YAML = [*sorted(ROOT.glob(".github/**/*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md", "SECURITY.md")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_it_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_pythons_are_the_same_everywhere() -> None:
    classified = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert tuple(classified) == PYTHONS == tuple(workflow["jobs"]["fast"]["strategy"]["matrix"]["python"])
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= v < (3, 14)" in (ROOT / "Makefile").read_text()


def test_hooks_are_local() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks["repos"][0]["hooks"]} == {"system"}


def test_the_changelog_has_this_version() -> None:
    assert est_cli.__version__ in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", TEXTS)
def test_what_the_texts_point_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= TARGETS


def test_the_lowest_versions_are_those_that_are_let_in() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()[1:]
    extras = [
        requirement
        for extra in ("test", "slurm", "search", "joblib")
        for requirement in PROJECT["optional-dependencies"][extra]
    ]
    bounds = dict(re.findall(r"^([\w-]+)>=([\w.]+)", "\n".join([*PROJECT["dependencies"], *extras]), re.MULTILINE))
    assert {name for name, _ in map(_pair, PROJECT["dependencies"])} <= {name for name, _ in map(_pair, lines)}
    for name, version in map(_pair, lines):
        assert (version + ".0.0").startswith(bounds.get(name, version)), name


@pytest.mark.parametrize("lock", ["requirements-cpu.txt", "requirements-cuda.txt"])
def test_the_locks_hold_what_is_needed_with_hashes(lock: str) -> None:
    """Every dependency, in the range that is let in; `make locks` mends what is missing."""
    text = (ROOT / "docker" / lock).read_text()
    pinned = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))
    assert pinned["torch"].partition("+")[2] == ("cpu" if "cpu" in lock else "")
    assert all("--hash=sha256:" in entry for entry in re.split(r"^(?=[\w])", text, flags=re.MULTILINE) if entry)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(pinned[requirement.name.lower()].partition("+")[0]), requirement


def _pair(requirement: str) -> tuple[str, str]:
    name, version = re.match(r"([\w-]+)[=>]=([\w.]+)", requirement).groups()  # type: ignore[union-attr]
    return name, version
