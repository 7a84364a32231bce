"""What a checkpoint was made with: the tool's commit and the versions of the libraries. Standard library only."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import est_cli

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy")


@cache
def git_commit() -> str | None:
    """The commit of the checkout this file stands in; None if it is installed elsewhere or git does not answer."""
    root = Path(__file__).resolve().parents[2]
    # Without this test git would look further up and find a repository that only contains our environment.
    if not (root / ".git").exists():
        return None
    command = ["git", f"--git-dir={root / '.git'}", "rev-parse", "--verify", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def _versions() -> tuple[tuple[str, str], ...]:
    found = [("est-cli", est_cli.__version__), ("python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of est, of Python and of each library that numbers can depend on; those not installed are left out."""
    return dict(_versions())


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    """`torch 2.12.0 then, 2.13.0 now; ...` for the keys whose values differ; None if none does."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return "; ".join(f"{key} {then.get(key)} then, {now.get(key)} now" for key in keys) or None
