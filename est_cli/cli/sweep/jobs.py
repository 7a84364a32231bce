"""All jobs of a sweep, composed and checked before the first of them starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from est_cli.cli.sweep.names import job_name, sweep_name
from est_cli.cli.sweep.overrides import Parts, combinations, shown
from est_cli.cli.sweep.program import Program
from est_cli.common.errors import ConfigError, EstError
from est_cli.config.compose import composed
from est_cli.config.method import refuse_stage_option
from est_cli.config.setting import FREE, keys_with, settings_of
from est_cli.storage.run_dir import check_run_name


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    program: Program
    number: int
    """From 1, in the order of the command line's values, or of the proposals of a search."""
    total: int
    name: str
    """Of its folder, inside the sweep's."""
    swept: dict[str, str]
    """Key -> value as a person reads it."""
    arguments: list[str]
    """What the command is started with."""
    asked: str = ""
    """What its summary.json must hold for it to be done."""
    problem: str | None = None
    """Why it cannot run."""
    proposed: bool = False
    """By a search, in which a job that its command refuses (exit code 2) is skipped."""


def _made(number: int, total: int, swept: Mapping[str, str], parts: Parts[Program], sweep: str) -> Job:
    """The job for these values (as overrides have them) in the sweep's folder of that name; not checked."""
    name = job_name(swept, parts.known)
    place = [f"sweep='{sweep}'", f"run_name='{name}'", *parts.program.every_job]
    search = [f"--config-dir={parts.config_dir}"] if parts.config_dir else []
    values = [f"{key}={text}" for key, text in swept.items()]
    labels = {key: shown(key, text) for key, text in swept.items()}
    return Job(parts.program, number, total, name, labels, [*search, *parts.fixed, *values, *place])


def name_of_sweep(parts: Parts[Program]) -> str:
    """`sweep=`, or made from words of the program, the swept keys and a hash of the rest of the command line.

    Composes what is fixed, so it raises ConfigError for wrong types too.
    """
    config = fixed_config(parts)
    if parts.folder is not None:
        check_run_name(parts.folder, "sweep")
        return parts.folder
    return sweep_name(parts.program.lead(config, parts.swept), parts.swept, parts.known, _defining(parts))


def fixed_config(parts: Parts[Program]) -> Any:
    """The configuration without what is swept."""
    return composed(parts.program.command, parts.program.schema, parts.fixed, parts.config_dir).config


def plan_jobs(parts: Parts[Program], sweep: str) -> list[Job]:
    """Every combination of the swept values, those that cannot run with their problem.

    Raises ConfigError for a value of the wrong type, for a job that was started with other settings, and where no job
    can run.
    """
    chosen = list(combinations(parts))
    jobs = [_checked(_made(number, len(chosen), swept, parts, sweep), parts) for number, swept in enumerate(chosen, 1)]
    assert len({job.name for job in jobs}) == len(jobs), "two jobs share a folder"
    if all(job.problem for job in jobs):
        others = f" (and none of the other {len(jobs) - 1} jobs can run)" if len(jobs) > 1 else ""
        raise ConfigError(f"{jobs[0].problem}{others}")
    return jobs


def propose(number: int, total: int, swept: Mapping[str, str], parts: Parts[Program], sweep: str) -> Job:
    """The job of a search for these values, checked."""
    job = replace(_made(number, total, swept, parts, sweep), proposed=True)
    try:
        return _checked(job, parts)
    except ConfigError as error:
        return replace(job, problem=str(error))


def _checked(job: Job, parts: Parts[Program]) -> Job:
    program, overrides = job.program, [argument for argument in job.arguments if not argument.startswith("--")]
    found = composed(program.command, program.schema, overrides, parts.config_dir)
    try:
        refuse_stage_option(found.chosen)
        program.check(found.config)
    except EstError as error:
        return replace(job, problem=str(error))
    program.check_started(found.config, found.given)
    return job if program.asked is None else replace(job, asked=program.asked(found.config))


def _defining(parts: Parts[Program]) -> list[str]:
    """The fixed overrides that may not change while a sweep is continued."""
    return [arg for arg in parts.fixed if not _is_free(arg.partition("=")[0], parts.program)]


def _is_free(key: str, program: Program) -> bool:
    """Whether the key, or every key of the group, may change while a sweep is continued."""
    named = {known for known in settings_of(program.schema) if known == key or known.startswith(f"{key}.")}
    return bool(named) and named <= keys_with(program.schema, FREE)
