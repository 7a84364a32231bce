"""What the launcher and its workers tell each other through files in a private folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.config.schema import plain

LOG_TAIL = 60


@dataclass(frozen=True)
class WorkerExit:
    """What a worker says when it ends: an exit code, and the line for the user."""

    code: int
    message: str


def save_job(command: str, config: Any, continued: Path | None, folder: Path) -> None:
    """Write what all workers do: the command's name, its configuration and the run that it continues."""
    tree = {"command": command, "config": plain(config), "continued": None if continued is None else str(continued)}
    (folder / "job.json").write_text(json.dumps(tree))


def load_job(folder: Path) -> tuple[str, dict[str, Any], Path | None]:
    """(the command's name, its configuration as a tree, the run that it continues)."""
    tree = json.loads((folder / "job.json").read_text())
    return tree["command"], tree["config"], None if tree["continued"] is None else Path(tree["continued"])


def write_exit(folder: Path, rank: int, ended: WorkerExit) -> None:
    (folder / f"rank-{rank}.json").write_text(json.dumps({"code": ended.code, "message": ended.message}))


def read_exit(folder: Path, rank: int) -> WorkerExit | None:
    """None where the worker ended without writing it, or in the middle of that."""
    try:
        return WorkerExit(**json.loads((folder / f"rank-{rank}.json").read_text()))
    except (OSError, ValueError):
        return None


def write_run_folder(folder: Path, run: Path) -> None:
    """Tell which folder the run has: the first process chooses it."""
    (folder / "run").write_text(str(run))


def read_run_folder(folder: Path) -> str | None:
    try:
        return (folder / "run").read_text() or None
    except OSError:
        return None


def log_path(folder: Path, rank: int) -> Path:
    """What a worker other than the first writes to stderr."""
    return folder / f"rank-{rank}.log"


def log_tail(folder: Path, rank: int) -> str:
    """The last lines of it."""
    try:
        return "\n".join(log_path(folder, rank).read_text(errors="replace").splitlines()[-LOG_TAIL:])
    except OSError:
        return ""
