"""The wheel holds everything: est-train works from it in another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import est_cli
from est_cli.reporting.assets import UPLOT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, module: str, *overrides: str, cwd: Path) -> str:
    """Run a command from the wheel's own files, the checkout out of reach."""
    script = f"import sys; sys.path.insert(0, {str(site)!r}); sys.argv[0] = {module!r}; import {module} as command\n"
    script += f"assert command.__file__.startswith({str(site)!r}), command.__file__\ncommand.console()"
    done = subprocess.run([sys.executable, "-c", script, *overrides], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_configuration_is_composed_from_the_wheel(unpacked_wheel: Path, tmp_path: Path) -> None:
    assert "vocab_size: 50257" in run(unpacked_wheel, "est_cli.train", "model=gpt2", "--cfg", "job", cwd=tmp_path)
    assert "26.67 %" in run(unpacked_wheel, "est_cli.plan", "experiment=paper_gpt2", cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_licence_version_and_type_hints_are_in_the_wheel(unpacked_wheel: Path) -> None:
    (licence,) = unpacked_wheel.glob("*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()
    (metadata,) = unpacked_wheel.glob("*.dist-info/METADATA")
    assert {"License-Expression: Apache-2.0", f"Version: {est_cli.__version__}"} <= set(
        metadata.read_text().splitlines()
    )
    assert (unpacked_wheel / "est_cli" / "py.typed").is_file()


def test_what_a_report_carries_inside_is_in_the_wheel(unpacked_wheel: Path) -> None:
    there = {path.name for path in (unpacked_wheel / "est_cli" / "reporting" / "assets").iterdir()}
    assert there == {path.name for path in (ROOT / "est_cli" / "reporting" / "assets").iterdir()} >= {*UPLOT}


def test_commands_of_the_wheel(unpacked_wheel: Path) -> None:
    (entry_points,) = unpacked_wheel.glob("*.dist-info/entry_points.txt")
    lines = entry_points.read_text("utf-8").split()
    assert "est-train" in lines
    assert "est-plan" in lines
    assert "est-eval" in lines
    assert "est-report" in lines
