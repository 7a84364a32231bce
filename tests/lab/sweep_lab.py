"""`est-train -m` in this process, with jobs that end as the test says instead of training."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from est_cli.cli.entry import enter
from est_cli.cli.sweep.run_job import JobExit, JobSignals
from est_cli.common.errors import EstError
from est_cli.config import RunConfig
from est_cli.config.schema import to_yaml
from est_cli.train import main
from est_cli.training.start import resolve_resume, runs_folder
from tests.lab.commands import typed_in

Plant = Callable[[JobSignals], JobExit]
DONE = JobExit(0, None)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.splitlines()[-1] if self.err else ""


@dataclass
class Lab:
    folder: Path
    capsys: pytest.CaptureFixture[str]
    ends: dict[str, JobExit | Plant] = field(default_factory=dict)
    """How the job of this name ends; those that are not named are done."""
    reached: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the job of this name has in its summary instead of the usual numbers."""
    ran: list[str] = field(default_factory=list)
    """Names of the jobs that were started."""

    def sweep(self, *args: str) -> Result:
        code = enter("est-train", main, ["est-train", "-m", *args])
        out, err = self.capsys.readouterr()
        return Result(code, out, err)

    def run_child(self, command: Sequence[str], signals: JobSignals) -> JobExit:
        """In the place of a process: accept the command line as est-train would, and write what a finished run has."""
        arguments = list(command[command.index("est_cli.train") + 1 :])
        with another_hydra():
            config, given = typed_in("train", *arguments)
        self.ran.append(str(config.run_name))
        try:
            start = resolve_resume(config, given)
        except EstError as error:
            return JobExit(error.exit_code, str(error))
        run = runs_folder(config) / str(config.run_name)
        run.mkdir(parents=True, exist_ok=True)
        if start.folder is None:
            (run / "config.yaml").write_text(to_yaml(config))
        end = self.ends.get(run.name, DONE)
        ended = end if isinstance(end, JobExit) else end(signals)
        if ended == DONE:
            (run / "summary.json").write_text(json.dumps(summary(config) | self.reached.get(run.name, {})))
        return ended

    def take_ran(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran

    def only_sweep(self) -> Path:
        (path,) = (self.folder / "outputs").iterdir()
        return path


@contextmanager
def another_hydra() -> Iterator[None]:
    """Compose as another process would: a plugin runs jobs inside of its own Hydra."""
    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        yield
    finally:
        instance.hydra = outer


def summary(config: RunConfig) -> dict[str, Any]:
    loss = 3.0 + float(config.stage.t1 or 0)
    return {"steps": config.train.max_steps or 300, "final_val_loss": loss, "perplexity": 20.0, "time_s": 1.5}


def results(sweep: Path) -> list[dict[str, str]]:
    """results.csv, which says the same as results.json."""
    with (sweep / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    jobs = json.loads((sweep / "results.json").read_text())["jobs"]
    assert [(job["folder"], job["status"], job["best"]) for job in jobs] == [
        (row["folder"], row["status"], row["best"] == "*") for row in rows
    ]
    return rows


def column(rows: Sequence[dict[str, str]], key: str) -> list[str]:
    return [row[key] for row in rows]
