"""Imports point downwards only: the table of the architecture, enforced by reading the syntax tree of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import est_cli
from est_cli.families import FAMILIES

ROOT = Path(est_cli.__file__).parent

LEVELS = (
    {"common", "est"},
    {"families", "storage"},
    {"config"},
    {"data", "distributed", "tracking"},
    {"models"},
    {"reporting"},
    {"training"},
    {"planning", "evaluation", "analysis"},
    {"cli"},
    {"train", "plan", "eval", "analyze", "report", "corpus", "push"},
)
"""Modules and packages of est_cli from the bottom up. Each may import what stands below it, and itself."""

NARROW = {"est": set(), "families": {"est.spec", "common.plugins"}}
"""Units that may import still less of ours."""

USERS_OF_HYDRA = {"config", "cli"}

ONLY = {
    "hydra": USERS_OF_HYDRA,
    "omegaconf": USERS_OF_HYDRA,
    "accelerate": {"distributed", "tracking"},
    "wandb": {"tracking"},
    "mlflow": {"tracking"},
    "tensorboardX": {"tracking"},
}
"""Third-party packages that only these units may import."""

THIRD_PARTY = {"est": {"torch"}, "families": set()}
"""Units whose third-party imports are limited to these packages; the standard library is always allowed."""

LIGHT = (
    *(
        "common.errors",
        "common.redact",
        "config",
        "config.micro_batch",
        "config.schedulers",
        "config.resolve",
        "config.schema",
        "config.setting",
        "config.plan",
        "config.eval",
        "config.analyze",
        "config.compose",
        "training.start",
        "storage.run_dir",
        "analysis.check_analysis",
        "evaluation.glue",
        "evaluation.check_evaluation",
        "evaluation.outcomes",
        "cli.command",
        "cli.help",
        "cli.entry",
        "cli.launch.environment",
        "cli.launch.launcher",
        "cli.launch.worker",
        "cli.sweep.command",
        "cli.sweep.program",
        "cli.sweep.trainings",
        "cli.sweep.evaluations",
        "train",
        "plan",
        "eval",
        "analyze",
        "report",
        "corpus",
        "push",
        "config.survey",
    ),
    *("families", *(f"families.{name}" for name in FAMILIES)),
    *("est", "est.schedule", "est.baselines", "est.stacking", "est.sizes", "est.spec", "est.flops"),
)
"""Modules that must not import anything heavy: they run before the configuration is accepted."""

HEAVY = ("torch", "numpy", "transformers", "datasets", "wandb", "accelerate", "matplotlib")


def modules() -> dict[str, Path]:
    """Dotted name below est_cli -> file."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(name: str, path: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a module imports, lazy imports inside functions included."""
    package = ["est_cli", *filter(None, name.split("."))]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def ours(imported: str) -> str | None:
    """The name below est_cli, or None for a third-party package."""
    head, _, rest = imported.partition(".")
    return rest if head == "est_cli" else None


def unit(name: str) -> str:
    return name.partition(".")[0]


def level(name: str) -> int:
    found = [number for number, units in enumerate(LEVELS) if name in units]
    assert len(found) == 1, f"est_cli/{name} must stand in LEVELS exactly once"
    return found[0]


MODULES = {name: path for name, path in modules().items() if name}
IMPORTS = {name: sorted(set(imports_of(name, path))) for name, path in MODULES.items()}


def test_the_walk_sees_the_package() -> None:
    assert {"est.wrap", "est.index", "families", "config"} <= set(MODULES)
    assert "est_cli.est.spec.ModelSpec" in IMPORTS["families.gpt2"]
    assert "torch.Tensor" in IMPORTS["est.index"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name: str) -> None:
    for imported in filter(None, map(ours, IMPORTS[name])):
        if unit(imported) != unit(name):
            assert level(unit(imported)) < level(unit(name)), f"est_cli/{name} may not import {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) in NARROW])
def test_the_method_and_the_families_import_almost_nothing(name: str) -> None:
    allowed = NARROW[unit(name)]
    for imported in filter(None, map(ours, IMPORTS[name])):
        inside = unit(imported) == unit(name)
        assert inside or any(imported == a or imported.startswith(f"{a}.") for a in allowed), imported
    packages = {unit(imported) for imported in IMPORTS[name] if ours(imported) is None}
    assert packages - set(sys.stdlib_module_names) <= THIRD_PARTY[unit(name)]


@pytest.mark.parametrize("package", ONLY)
def test_frameworks_stay_where_they_belong(package: str) -> None:
    users = {unit(name) for name, imported in IMPORTS.items() if package in map(unit, imported)}
    assert users <= ONLY[package]


BLOCKED_USE = """
import sys

BLOCKED = {"hydra", "omegaconf", "wandb", "accelerate", "transformers", "datasets", "safetensors", "huggingface_hub"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import torch
from torch import nn
from est_cli import est

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

projections = est.Projection("up", 8, 16, "column", "out"), est.Projection("down", 16, 8, "column", "in")
spec = est.ModelSpec("toy", "layers", 4, 1, 1, 8, 16, 8, 1, 1, projections, ("down",))
model = Toy()
handle, generator = est.apply_est(model, spec), est.IndexGenerator(spec, 0)
scheduler = est.three_stage(3, 1, 2, est.SamplingRates(1.0, 0.5, 0.5))
ledger = est.planned_ledger(spec, scheduler, est.SamplingOptions(), 5, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
used = []
for step in range(3):
    handle.activate(generator.draw(step, scheduler.rates_at(step)))
    optimizer.zero_grad()
    model(torch.randn(500, 8)).square().mean().backward()
    gradients = [layer.up.weight.grad for layer in model.layers]
    used.append(sum(int(gradient.any(1).sum()) for gradient in gradients if gradient is not None))
    optimizer.step()
assert used == [2 * 8, 4 * 8, 4 * 16], used
assert round(ledger.saved_pct("blocks"), 6) == round(100 * (0.75 + 0.5) / 3, 6)
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
print("used without the rest")
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT.parent, check=False
    )


@pytest.mark.slow
def test_the_method_works_without_the_rest() -> None:
    result = python(BLOCKED_USE)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "used without the rest\n"


def test_nothing_heavy_is_imported_before_the_configuration_is_accepted() -> None:
    names = [f"est_cli.{name}" for name in LIGHT]
    result = python(
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[]\n"
