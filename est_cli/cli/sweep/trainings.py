"""What `est-train -m` sweeps: runs of est-train."""

from __future__ import annotations

from collections.abc import Collection

from est_cli.cli.sweep.command import run_sweep
from est_cli.cli.sweep.program import Column, Program, SweepRefused
from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config import RunConfig
from est_cli.config.command_line import CommandLine
from est_cli.config.resolve import check
from est_cli.config.setting import Given
from est_cli.tracking.records import FIELDS
from est_cli.training.start import resolve_resume

_COLUMNS = tuple(
    Column(field.name, field.sweep.heading, field.sweep.form, best=field.best) for field in FIELDS if field.sweep
)


def _prefix(config: RunConfig, swept: Collection[str]) -> list[str]:
    chosen = {"model": str(config.model.name), "scheduler": config.scheduler.name}
    return [name for group, name in chosen.items() if not {group, f"{group}.name", "experiment"} & set(swept)]


def _prepare(config: RunConfig, given: Given) -> str:
    check(config)
    try:
        resolve_resume(config, given)
    except CheckpointError:  # a damaged folder: that job's own failure
        pass
    except ConfigError as error:
        raise SweepRefused(str(error)) from error
    return ""


TRAININGS = Program(
    name="train",
    no_place={
        "run_name": "is made from what is swept under -m; sweep=NAME names the folder of all jobs",
        "resume": "has no place under -m; the same command again continues a sweep",
    },
    repeats="seed",
    every_job=("resume=auto",),
    prefix=_prefix,
    prepare=_prepare,
    numbers=[column.key for column in _COLUMNS],
    columns=lambda jobs: _COLUMNS,
    objective="final_val_loss",
    telling=("flops_saved_pct_blocks", "flops_saved_pct_total", "time_saved_pct"),
    directions=("minimize", "maximize"),
    report="est-report",
)


def sweep(line: CommandLine) -> None:
    run_sweep(TRAININGS, line)
