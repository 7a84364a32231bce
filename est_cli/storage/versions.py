"""What a checkpoint was made with: the tool's commit and the versions of the libraries. Standard library only."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import est_cli
from est_cli.common.plugins import packages_in_use

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "numpy")


@cache
def git_commit() -> str | None:
    """The commit of the checkout this file stands in; None if it is installed elsewhere or git does not answer."""
    return _git("rev-parse", "--verify", "HEAD")


@cache
def git_dirty() -> bool | None:
    """Whether files of that checkout differ from the commit; None as git_commit()."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    # Without this test git would look further up and find a repository that only contains our environment.
    if not (root / ".git").exists():
        return None
    command = ["git", f"--git-dir={root / '.git'}", f"--work-tree={root}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def versions_of(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(name, version) of est, Python and those of the packages that are installed."""
    found = [("est-cli", est_cli.__version__), ("python", platform.python_version())]
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of est, of Python and of each library that numbers can depend on; those not installed are left out.

    The packages whose families and schedulers are in use are among them.
    """
    return dict(versions_of(LIBRARIES)) | packages_in_use()


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> str | None:
    """`torch 2.12.0 then, 2.13.0 now; ...` for the keys whose values differ; None if none does."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return "; ".join(f"{key} {then.get(key)} then, {now.get(key)} now" for key in keys) or None
