"""sink_script as a process, in a git repository with a secret in its remote, and what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab import wandb_file

ROOT = Path(__file__).parents[2]


def command_of(
    folder: Path, asked: dict[str, Any], *argv: str, **environ: str
) -> tuple[Path, list[str], dict[str, Any]]:
    """The run's folder, the command line, and what subprocess takes beside it. HOME is in `folder`/work, too."""
    work, run_dir = folder / "work", folder / "work" / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in ("objects", "refs"):
        (work / ".git" / name).mkdir(parents=True, exist_ok=True)
    (work / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (work / ".git" / "config").write_text('[remote "origin"]\nurl = https://user:CANARY-git@example.org/x.git\n')
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean |= {"HOME": str(work), "NETRC": str(folder / "netrc"), "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-m", "tests.lab.sink_script", str(run_dir), json.dumps(asked), *argv]
    return run_dir, command, {"cwd": work, "env": clean, "stdin": subprocess.DEVNULL, "text": True}


def track(
    folder: Path, asked: dict[str, Any], *argv: str, **environ: str
) -> tuple[Path, dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run it to its end; the run's folder, what the script told, and the process."""
    run_dir, command, how = command_of(folder, asked, *argv, **environ)
    done: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, timeout=120, **how)
    assert done.returncode == 0, done.stderr
    return run_dir, json.loads(done.stdout.splitlines()[-1]), done


def mirrored(run_dir: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The one offline run below `run_dir`, and its rows."""
    (path,) = run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb")
    return path, wandb_file.history(path)
