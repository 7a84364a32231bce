"""The scripts of examples/ do what docs/examples.md says of them."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "examples.md"
LINE = re.compile(r"(\w+) +accuracy ([\d.]+) \+- \S+ % +(\S+) FLOPs, +([\d.]+) % saved")


def script(name: str) -> dict[str, object]:
    return runpy.run_path(str(ROOT / "examples" / name))


def told(text: str) -> dict[str, tuple[float, str, float]]:
    """Schedule -> accuracy, FLOPs and what is saved."""
    return {name: (float(accuracy), flops, float(saved)) for name, accuracy, flops, saved in LINE.findall(text)}


def test_the_mlp_uses_the_method_alone() -> None:
    source = (ROOT / "examples" / "mlp.py").read_text()
    modules = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {module.partition(".")[0] for module in modules if module} - set(sys.stdlib_module_names) == {
        *("torch", "sklearn", "est_cli")
    }
    assert "from est_cli import est\n" in source and source.count("est_cli import") == 1
    assert len(source.splitlines()) < 100
    *_, started = source.partition('if __name__ == "__main__":')
    assert "torch.set_num_threads(1)" in started  # else minutes on a machine that does other things too


@pytest.mark.slow
def test_the_mlp_learns_with_est_what_it_learns_without() -> None:
    lines = script("mlp.py")["lines"]
    found = told("\n".join(lines(steps=200, seeds=1)))  # type: ignore[operator]
    assert list(found) == ["dense", "three_stage"]
    assert all(accuracy > 93.0 for accuracy, _, _ in found.values())
    assert found["dense"][2] == 0.0 and 25.0 < found["three_stage"][2] < 27.0


@pytest.mark.parametrize("name", ["mlp.py"])
def test_the_page_shows_what_is_printed(name: str) -> None:
    """Accuracies depend on the machine's rounding; FLOPs do not."""
    lines = script(name)["lines"]
    train = lines.__globals__["train"]  # type: ignore[attr-defined]
    lines.__globals__["train"] = lambda *_: 97.0  # type: ignore[attr-defined]
    now, shown = told("\n".join(lines())), told(PAGE.read_text())  # type: ignore[operator]
    lines.__globals__["train"] = train  # type: ignore[attr-defined]
    assert now and {name: row[1:] for name, row in now.items()} == {name: row[1:] for name, row in shown.items()}
    assert f"python examples/{name}" in PAGE.read_text()
