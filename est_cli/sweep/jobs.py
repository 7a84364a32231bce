"""All jobs of a sweep, composed and checked before the first of them starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from est_cli.checks import check
from est_cli.compose import checked_overrides, composed, refuse_stages_of_dense
from est_cli.config import RunConfig
from est_cli.errors import CheckpointError, ConfigError
from est_cli.resume import resolve_resume
from est_cli.run_dir import check_run_name
from est_cli.sweep.names import job_name, sweep_name
from est_cli.sweep.overrides import Parts, combinations, shown


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int
    """From 1, in the order of the command line's values."""
    name: str
    """Of its folder, inside the sweep's."""
    swept: dict[str, str]
    """Key -> value as a person reads it."""
    arguments: list[str]
    """What est-train is started with."""
    problem: str | None = None
    """Why it cannot run."""


def make_job(number: int, swept: Mapping[str, str], parts: Parts, sweep: str) -> Job:
    """The job for these values (as overrides have them) in the sweep's folder of that name; not checked."""
    name = job_name(swept, parts.known)
    place = [f"sweep='{sweep}'", f"run_name='{name}'", "resume=auto"]
    search = [f"--config-dir={parts.config_dir}"] if parts.config_dir else []
    values = [f"{key}={text}" for key, text in swept.items()]
    labels = {key: shown(key, text) for key, text in swept.items()}
    return Job(number, name, labels, [*search, *parts.fixed, *values, *place])


def name_of_sweep(parts: Parts) -> str:
    """`sweep=`, or made from the model, the scheduler, the swept keys and a hash of the rest of the command line.

    Composes what is fixed, so it raises ConfigError for wrong types too.
    """
    config, _ = composed("train", RunConfig, parts.fixed, parts.config_dir)
    if parts.folder is not None:
        check_run_name(parts.folder, "sweep")
        return parts.folder
    chosen = {"model": str(config.model.name), "scheduler": config.scheduler.name.value}
    unswept = [name for group, name in chosen.items() if not {group, f"{group}.name", "experiment"} & set(parts.swept)]
    return sweep_name(unswept, parts.swept, parts.known, parts.defining)


def plan_jobs(parts: Parts, sweep: str) -> list[Job]:
    """Every combination of the swept values, those that cannot run with their problem.

    Raises ConfigError for a value of the wrong type, for a job that was started with other settings, and where no job
    can run.
    """
    jobs = [
        _checked(make_job(number, swept, parts, sweep), parts) for number, swept in enumerate(combinations(parts), 1)
    ]
    assert len({job.name for job in jobs}) == len(jobs), "two jobs share a folder"
    if all(job.problem for job in jobs):
        others = f" (and none of the other {len(jobs) - 1} jobs can run)" if len(jobs) > 1 else ""
        raise ConfigError(f"{jobs[0].problem}{others}")
    return jobs


def _checked(job: Job, parts: Parts) -> Job:
    overrides = [argument for argument in job.arguments if not argument.startswith("--")]
    config, given = composed("train", RunConfig, overrides, parts.config_dir)
    try:
        refuse_stages_of_dense(checked_overrides(overrides, RunConfig, parts.groups))
        check(config)
    except ConfigError as error:
        return Job(job.number, job.name, job.swept, job.arguments, str(error))
    with suppress(CheckpointError):  # a damaged folder: that job's own failure
        resolve_resume(config, given)
    return job
