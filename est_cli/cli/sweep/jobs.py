"""All jobs of a sweep, composed and checked before the first of them starts, and the names of their folders.

A name is a function of the command line alone, so that typing it again finds the folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from est_cli.cli.sweep.overrides import Parts, combinations, shown
from est_cli.cli.sweep.program import Program, SweepRefused
from est_cli.common.counts import counted
from est_cli.common.errors import ConfigError, EstError
from est_cli.config.compose import Composed, composed
from est_cli.config.method import refuse_stage_option
from est_cli.config.setting import FREE, keys_with, settings_of, short_key
from est_cli.storage.run_dir import MAX_NAME, check_run_name

_LOST = re.compile(r"[^A-Za-z0-9_.-]+")
_HASH_CHARS = 8


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
    digest: str = ""
    """What its summary.json must hold as `asked` for it to be done."""
    problem: str | None = None
    """Why it cannot run."""
    processes: int = 1
    """That it starts, on each node."""
    proposed: bool = False
    """By a search, in which a job that its command refuses (exit code 2) is skipped."""


def name_of_sweep(program: Program, parts: Parts, fixed: Any) -> str:
    """`sweep=`, or made from words of the program, the swept keys and a hash of the rest of the command line.

    `fixed`: the configuration without what is swept.
    """
    if parts.folder is not None:
        check_run_name(parts.folder, "sweep")
        return parts.folder
    return sweep_name(program.prefix(fixed, parts.swept), parts.swept, parts.known, _defining(parts))


def fixed_config(parts: Parts) -> Any:
    """The configuration without what is swept. Raises ConfigError for wrong types too."""
    return composed(parts.command.name, parts.command.schema, parts.fixed, parts.config_dir).config


def plan_jobs(program: Program, parts: Parts, sweep: str) -> list[Job]:
    """Every combination of the swept values, those that cannot run with their problem.

    Raises ConfigError for a value of the wrong type, for a job that was started with other settings, and where no job
    can run.
    """
    chosen = list(combinations(parts))
    made = [_made(number, len(chosen), swept, program, parts, sweep) for number, swept in enumerate(chosen, 1)]
    jobs = [_checked(job, parts) for job in made]
    assert len({job.name for job in jobs}) == len(jobs), "two jobs share a folder"
    if all(job.problem for job in jobs):
        others = f" (and the other {counted(len(jobs) - 1, 'job')} cannot run either)" if len(jobs) > 1 else ""
        raise ConfigError(f"{jobs[0].problem}{others}")
    return jobs


def propose(number: int, total: int, swept: Mapping[str, str], program: Program, parts: Parts, sweep: str) -> Job:
    """The job of a search for these values, checked."""
    job = replace(_made(number, total, swept, program, parts, sweep), proposed=True)
    try:
        return _checked(job, parts)
    except ConfigError as error:
        return replace(job, problem=str(error))


def _made(number: int, total: int, swept: Mapping[str, str], program: Program, parts: Parts, sweep: str) -> Job:
    """The job for these values (as overrides have them) in the sweep's folder of that name; not checked."""
    name = job_name(swept, parts.known)
    place = [f"sweep='{sweep}'", f"run_name='{name}'", *program.every_job]
    search = [f"--config-dir={parts.config_dir}"] if parts.config_dir else []
    values = [f"{key}={text}" for key, text in swept.items()]
    labels = {key: shown(key, text) for key, text in swept.items()}
    return Job(program, number, total, name, labels, [*search, *parts.fixed, *values, *place])


def _checked(job: Job, parts: Parts) -> Job:
    overrides = [argument for argument in job.arguments if not argument.startswith("--")]
    found: Composed[Any] = composed(parts.command.name, parts.command.schema, overrides, parts.config_dir)
    try:
        refuse_stage_option(found.chosen)
        digest = job.program.prepare(found.config, found.given)
        return replace(job, digest=digest, processes=found.config.launch.num_processes)
    except SweepRefused:
        raise
    except EstError as error:
        return replace(job, problem=str(error))


def _defining(parts: Parts) -> list[str]:
    """The fixed overrides that may not change while a sweep is continued."""
    return [arg for arg in parts.fixed if not _is_free(arg.partition("=")[0], parts.command.schema)]


def _is_free(key: str, schema: type) -> bool:
    """Whether the key, or every key of the group, may change while a sweep is continued."""
    named = {known for known in settings_of(schema) if known == key or known.startswith(f"{key}.")}
    return bool(named) and named <= keys_with(schema, FREE)


def job_name(swept: Mapping[str, str], known: Collection[str]) -> str:
    """`t1=0.1,t2=0.4` for the swept keys and their values as overrides; `known` are all keys and groups that there are.

    A key stands without its group where no other key has the same last word; the one job of a command line that sweeps
    nothing is `job`. Where a value has characters that a
    folder's name may not have, or the name is too long, a hash of all values keeps it unique.
    """
    words = [f"{short_key(key, known)}={_word(value)}" for key, value in swept.items()]
    lossy = any(_LOST.search(value) for value in swept.values())
    return _fitted(",".join(words) or "job", [f"{key}={value}" for key, value in swept.items()], lossy)


def sweep_name(parts: Iterable[str], keys: Iterable[str], known: Collection[str], fixed: Collection[str]) -> str:
    """`gpt2_tiny-three_stage-t1,t2-1a2b3c4d`: `parts`, the swept keys, and a hash of what is fixed where anything is.

    The hash does not depend on the order of `fixed`, and nothing depends on the values that are swept.
    """
    keys = list(keys)
    name = "-".join(filter(None, [*map(_word, parts), ",".join(short_key(key, known) for key in keys)]))
    return _fitted(name.lstrip("-_.") or "sweep", sorted(fixed) + (keys if len(name) > MAX_NAME else []), bool(fixed))


def _word(text: str) -> str:
    return _LOST.sub("-", text).strip("-") if _LOST.search(text) else text


def _fitted(name: str, content: Iterable[str], hashed: bool) -> str:
    if not hashed and len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:_HASH_CHARS]
    return f"{name[: MAX_NAME - _HASH_CHARS - 1]}-{digest}"
