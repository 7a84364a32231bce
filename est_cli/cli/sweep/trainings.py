"""What `est-train -m` sweeps: runs of est-train."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from est_cli.cli.sweep.command import run_sweep
from est_cli.cli.sweep.program import Column, Numbers, Program
from est_cli.common.errors import CheckpointError
from est_cli.config import RunConfig
from est_cli.config.compose import CommandLine
from est_cli.config.resolve import check
from est_cli.tracking.records import FIELDS
from est_cli.training.start import resolve_resume

_COLUMNS = tuple(
    Column(field.name, field.sweep.heading, field.sweep.form, best=field.best) for field in FIELDS if field.sweep
)


def _lead(config: RunConfig, swept: Collection[str]) -> list[str]:
    chosen = {"model": str(config.model.name), "scheduler": config.scheduler.name}
    return [name for group, name in chosen.items() if not {group, f"{group}.name", "experiment"} & set(swept)]


def _check_started(config: RunConfig, given: set[str]) -> None:
    with suppress(CheckpointError):  # a damaged folder: that job's own failure
        resolve_resume(config, given)


def _numbers(summary: Numbers) -> dict[str, Any]:
    return {column.key: summary.get(column.key) for column in _COLUMNS}


def _columns(jobs: object) -> tuple[Column, ...]:
    return _COLUMNS


def _check_search(config: RunConfig, swept: Collection[str]) -> None:
    """Every run has a validation loss."""


TRAININGS = Program(
    command="train",
    schema=RunConfig,
    no_place={
        "run_name": "is made from what is swept under -m; sweep=NAME names the folder of all jobs",
        "resume": "has no place under -m; the same command again continues a sweep",
    },
    every_job=("resume=auto",),
    lead=_lead,
    check=check,
    check_started=_check_started,
    asked=None,
    numbers=_numbers,
    columns=_columns,
    objective="final_val_loss",
    directions=("minimize", "maximize"),
    check_search=_check_search,
)


def sweep(line: CommandLine) -> None:
    run_sweep(TRAININGS, line)
