"""What `est-eval -m` sweeps: evaluations, each with a folder of its own for its results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from est_cli.cli.sweep.command import run_sweep
from est_cli.cli.sweep.program import Column, Numbers, Program
from est_cli.common.errors import ConfigError
from est_cli.config import EvalConfig
from est_cli.config.command_line import CommandLine
from est_cli.config.eval import LM_EVAL, check_eval, split_tasks
from est_cli.evaluation.check_evaluation import check_inputs, request_digest
from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.outcomes import AVERAGE


def _prefix(config: EvalConfig, swept: Collection[str]) -> list[str]:
    if "checkpoint" in swept or not config.checkpoint:
        return ["eval"]
    place = Path(config.checkpoint)
    return ["eval", place.parent.name if place.name == "model" else place.name]


def _prepare(config: EvalConfig, given: set[str]) -> str:
    """Results of other settings may lie beside each other in a folder."""
    check_eval(config)
    check_inputs(config)
    return request_digest(config)


def _columns(jobs: Sequence[Numbers]) -> list[Column]:
    """Of the tasks that any of the jobs has, and their average where all have the same."""
    seen = dict.fromkeys(key for numbers in jobs for key in numbers)
    tasks = tuple(name for name in TASKS if name in seen)
    columns = [column for task in tasks for column in _score(task, task, ())]
    if tasks:
        shown = len(tasks) > 1 and any(set(tasks) <= set(numbers) for numbers in jobs)
        columns += _score(AVERAGE, AVERAGE if shown else None, tasks)
        columns.append(Column("seeds", "seeds", "d"))
    if "one_class" in seen:  # of how many fine-tunings the predictions are all the same
        columns.append(Column("one_class", "one class", "d"))
    if "difference" in seen:
        columns += [Column("difference", "minus baseline", "+.1f", 100.0), Column("significant")]
    if "perplexity" in seen:
        columns += [Column("perplexity", "perplexity", ".3f", best=min)]
        columns += [Column("bits_per_byte", "bits per byte", ".4f", best=min)]
    harness = [key for key in seen if key.startswith(LM_EVAL)]
    columns += [Column(key, None if "stderr" in key else key.removeprefix(LM_EVAL), ".4f") for key in harness]
    return [*columns, Column("time_s", "time s", ".1f")] if tasks else columns


def _score(key: str, heading: str | None, needs: tuple[str, ...]) -> list[Column]:
    return [Column(key, heading, ".1f", 100.0, max, needs), Column(f"{key}_sd", needs=needs)]


def _check_search(config: EvalConfig, swept: Collection[str]) -> None:
    if "task" in swept:
        raise ConfigError("task: cannot be searched, since scores of different tasks do not compare; sweep it")
    if not split_tasks(config.task)[0]:
        raise ConfigError("task: a search goes by the average score of GLUE tasks; name some, or sweep without it")


EVALUATIONS = Program(
    name="eval",
    no_place={"run_name": "is made from what is swept under -m; sweep=NAME names the folder of all jobs"},
    prefix=_prefix,
    prepare=_prepare,
    columns=_columns,
    objective=AVERAGE,
    directions=("maximize",),
    check_search=_check_search,
    note="dev scores x 100: mean ± standard deviation (n - 1) over the seeds; *: the best, which is optimistic, since "
    "it was chosen by the dev scores themselves",
)


def sweep(line: CommandLine) -> None:
    run_sweep(EVALUATIONS, line)
