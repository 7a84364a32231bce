"""The commands as a user calls them: in this process as far as the accepted configuration, and in a real process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from est_cli.cli.command import command_named
from est_cli.cli.entry import enter, run_command
from est_cli.config import PlanConfig, RunConfig
from est_cli.config.resolve import check

C = TypeVar("C", bound=RunConfig)

POISON = "raise ImportError('imported before the configuration was accepted')\n"
HEAVY = ("torch", "numpy", "transformers", "datasets", "wandb", "accelerate", "matplotlib")


def composed(*args: str, schema: type[C] = RunConfig) -> tuple[C, set[str]]:  # type: ignore[assignment]
    """(the configuration, unchecked; the keys that the command line sets)."""
    return typed_in("plan" if schema is PlanConfig else "train", *args)


def typed_in(name: str, *args: str) -> Any:
    """(the configuration, unchecked; the keys that the command line sets) of the command est-NAME."""
    got: list[tuple[Any, set[str]]] = []
    silent = replace(command_named(name), accept=lambda *found: got.append(found), launches=False)
    run_command(silent, [f"est-{name}", *args])
    return got[0]


def accepted(*args: str, schema: type[C] = RunConfig) -> C:  # type: ignore[assignment]
    """The configuration after check()."""
    config, _ = composed(*args, schema=schema)
    check(config)
    return config


def told(capsys: pytest.CaptureFixture[str], *args: str, schema: type[RunConfig] = RunConfig) -> str:
    """What is said of a command line that is refused: one line without the program's name."""

    def main(argv: Any) -> None:
        accepted(*argv, schema=schema)

    code = enter("est", main, args)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), f"{args}: code {code}, {out}{err}"
    assert err.startswith("est: error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    return err.removeprefix("est: error: ").rstrip("\n")


@dataclass
class Ended:
    code: int
    out: str
    err: str
    cpu_s: float
    """User and system seconds of the process: wall time says little on a machine that does other things too."""


def command(name: str, *args: str, cwd: Path, **environment: str) -> Ended:
    """Run the installed command."""
    program = str(Path(sys.executable).with_name(name))
    env, before = os.environ | environment, _children_cpu_s()
    ended = subprocess.run([program, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr, _children_cpu_s() - before)


def poisoned_path(folder: Path) -> str:
    """A PYTHONPATH on which everything heavy raises when it is imported."""
    for package in HEAVY:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(POISON)
    return str(folder)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` and the content of the files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
