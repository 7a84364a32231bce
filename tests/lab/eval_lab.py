"""`est-eval -m` in this process, with jobs that have the scores that the test says instead of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from est_cli.cli.entry import enter
from est_cli.cli.sweep.run_job import JobExit, JobSignals
from est_cli.common.errors import EstError
from est_cli.config import EvalConfig
from est_cli.config.eval import check_eval, split_tasks
from est_cli.eval import main
from est_cli.evaluation.check_evaluation import check_inputs, request_digest
from est_cli.evaluation.outcomes import Record, score_numbers
from est_cli.evaluation.results import keep_summary
from tests.lab.commands import typed_in
from tests.lab.glue_files import record
from tests.lab.glue_folder import make_glue
from tests.lab.sweep_lab import DONE, Result, another_hydra

Score = Callable[[EvalConfig, str, int], float]
"""Of a task and a seed."""


def by_lr(config: EvalConfig, task: str, seed: int) -> float:
    """Best at 0.003 for sst2 and at 0.001 for mrpc; 0.01 for each seed."""
    return 0.6 + 0.01 * seed - abs(config.eval.lr - {"sst2": 0.003, "mrpc": 0.001}.get(task, 0.002))


@dataclass
class EvalLab:
    folder: Path
    capsys: pytest.CaptureFixture[str]
    score: Score = by_lr
    ends: dict[str, JobExit] = field(default_factory=dict)
    """How the job of this name ends; those that are not named are done."""
    ran: list[str] = field(default_factory=list)
    """Names of the jobs that were started."""
    configs: list[EvalConfig] = field(default_factory=list)

    def sweep(self, *args: str) -> Result:
        code = enter("est-eval", main, ["est-eval", "-m", *args])
        out, err = self.capsys.readouterr()
        return Result(code, out, err)

    def run_child(self, command: Sequence[str], signals: JobSignals) -> JobExit:
        """In the place of a process: accept the command line as est-eval would, and write what an evaluation leaves."""
        arguments = list(command[command.index("est_cli.eval") + 1 :])
        with another_hydra():
            config, _ = typed_in("eval", *arguments)
        self.ran.append(str(config.run_name))
        self.configs.append(config)
        try:
            check_eval(config)
            check_inputs(config)
        except EstError as error:
            return JobExit(error.exit_code, str(error))
        folder = Path("outputs", str(config.sweep), str(config.run_name))
        folder.mkdir(parents=True, exist_ok=True)
        ended = self.ends.get(folder.name, DONE)
        if ended == DONE:
            keep_summary(folder, request_digest(config), self._numbers(config))
        return ended

    def take_ran(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran

    def only_sweep(self) -> Path:
        (path,) = (self.folder / "outputs").iterdir()
        return path

    def _numbers(self, config: EvalConfig) -> Mapping[str, Any]:
        tasks, perplexity, _ = split_tasks(config.task)
        numbers = {"perplexity": 9.0 + config.eval.lr, "bits_per_byte": 2.0} if perplexity else {}
        names = [str(name) for name in (config.checkpoint, config.baseline) if name]
        records = [
            made(config, name, task, seed, self.score) for name in names for task in tasks for seed in config.eval.seeds
        ]
        return numbers | (score_numbers(records, names[0], config.baseline) if records else {})


def made(config: EvalConfig, checkpoint: str, task: str, seed: int, score: Score) -> Record:
    value = score(config, task, seed) - (0.1 if checkpoint == config.baseline else 0.0)
    return record(checkpoint, task, seed, value, *([value] if task == "mrpc" else []))


def prepare(folder: Path) -> None:
    """Models that nobody loads, and the data of two tasks."""
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text("{}")
    make_glue(folder / "glue", names=["sst2", "mrpc"])
