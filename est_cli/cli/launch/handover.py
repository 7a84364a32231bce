"""What the launcher and its workers tell each other through files in a private folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from est_cli.config import AnalyzeConfig, EvalConfig, RunConfig
from est_cli.config.schema import plain, typed
from est_cli.training.start import Start

LOG_TAIL = 60


@dataclass(frozen=True)
class WorkerExit:
    """What a worker says when it ends: an exit code, and the line for the user."""

    code: int
    message: str


def save_job(start: Start | EvalConfig | AnalyzeConfig, folder: Path) -> None:
    """Write what all workers train, evaluate or analyse."""
    if isinstance(start, EvalConfig):
        tree = {"evaluate": plain(start)}
    elif isinstance(start, AnalyzeConfig):
        tree = {"analyse": plain(start)}
    else:
        tree = {"config": plain(start.config), "folder": None if start.folder is None else str(start.folder)}
    (folder / "start.json").write_text(json.dumps(tree))


def load_job(folder: Path) -> Start | EvalConfig | AnalyzeConfig:
    """What save_job() wrote."""
    tree = json.loads((folder / "start.json").read_text())
    if "evaluate" in tree:
        return typed(tree["evaluate"], EvalConfig)
    if "analyse" in tree:
        return typed(tree["analyse"], AnalyzeConfig)
    return Start(typed(tree["config"], RunConfig), None if tree["folder"] is None else Path(tree["folder"]))


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
