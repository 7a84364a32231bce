"""Hydra's launcher plugins, which take the jobs to a cluster, and the only settings of Hydra's own that -m may have.

All that a launcher gets of a job is its folder's name: the configuration of a run is composed and checked by its own
command, in the job's own process.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.cli.sweep import search
from est_cli.cli.sweep.jobs import Job
from est_cli.cli.sweep.program import Program
from est_cli.cli.sweep.results import LAUNCHER, is_done
from est_cli.cli.sweep.run_job import perform_all
from est_cli.common.errors import ConfigError, EstError, StoppedBySignal, install_hint
from est_cli.config.compose import parsed_override, refused_of_hydra, store_defaults
from est_cli.config.groups import CONF

_KEY = re.compile(r"hydra/(launcher|sweeper)(/[a-z]\w*)?|hydra\.(launcher|sweeper)(\.[A-Za-z]\w*)+")
_SEARCH = ("hydra/sweeper", "hydra.sweeper")
_CODE = ("hydra.sweeper.params", "hydra.sweeper.search_space", "hydra.sweeper.custom_search_space")
_EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "joblib", "optuna": "search"}
"""Options that an extra of this package installs."""
_QUIET = (
    *("hydra.sweep.subdir=.", "hydra.output_subdir=null", "hydra.job.chdir=false"),
    *("hydra/job_logging=none", "hydra/hydra_logging=none"),  # "disabled" silences every logger that there is, ours too
)


@dataclass(frozen=True)
class Settings:
    """How the jobs are chosen and run."""

    overrides: list[str]
    """Of the launcher, as typed."""
    launcher: str = "basic"
    search: search.SearchConfig | None = None

    @property
    def launches(self) -> bool:
        return self.launcher != "basic"


def read_settings(program: Program, typed: Sequence[str]) -> Settings:
    """ConfigError for a plugin that is not installed, and for settings that it does not have or must not be given."""
    if not typed:
        return Settings([])
    overrides = [_parsed(text) for text in typed]
    chosen = {override.key_or_group: str(override.value()) for override in overrides}
    launcher, sweeper = chosen.get("hydra/launcher", "basic"), chosen.get("hydra/sweeper", "basic")
    with _opened_hydra(program) as loader:
        _refuse_missing("hydra/launcher", launcher, loader.get_group_options("hydra/launcher"))
        _refuse_missing("hydra/sweeper", sweeper, ["basic", *(["optuna"] if search.is_installed() else [])])
        if sweeper == "optuna":  # after Hydra has found its plugins, one of which has that name too
            search.store_defaults(program.directions[0], n_jobs=1 if launcher == "basic" else 2)
        try:
            hydra = loader.load_configuration(program.name, [*typed], run_mode=RunMode.MULTIRUN).hydra
            found = OmegaConf.to_container(hydra.sweeper)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_message(error)) from error
    if hydra.launcher.get("tasks_per_node", 1) != 1:
        raise ConfigError("hydra.launcher.tasks_per_node: must be 1; launch.num_processes starts those of a node")
    if hydra.launcher.get("nodes", 1) != 1 and launcher != "submitit_slurm":
        raise ConfigError(f"hydra.launcher.nodes: must be 1 for {launcher}, which has one machine")
    if sweeper == "basic":
        return Settings([*typed], launcher)
    config = search.SearchConfig(**cast(dict[str, Any], found))
    search.check_search(config, program)
    return Settings([text for text in typed if not text.lstrip("+").startswith(_SEARCH)], launcher, config)


def launch_jobs(settings: Settings, jobs: Sequence[Job], sweep: Path) -> None:
    """Hand the jobs that can run and are not done to the launcher, all at once, and wait for them."""
    waiting = {job.name: job for job in jobs if job.problem is None and not is_done(sweep, job)}
    if not waiting:
        return
    program, folder = jobs[0].program, sweep / LAUNCHER
    names = ",".join(f"'{name}'" for name in waiting)
    args = [*_QUIET, f"hydra.sweep.dir='{folder}'", *settings.overrides, f"run_name=choice({names})"]
    folder.mkdir(exist_ok=True)
    with _opened_hydra(program):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            task = partial(_launched, jobs=waiting, sweep=sweep)
            hydra.multirun(program.name, task, args, with_log_configuration=False)
        except EstError:
            raise
        except (KeyboardInterrupt, StoppedBySignal) as stop:
            if not settings.launches:
                raise
            message = "jobs that the launcher took go on, and the same command shows them when they are done"
            raise StoppedBySignal(getattr(stop, "signum", signal.SIGINT), message) from stop
        except Exception as error:  # whatever a plugin finds wrong: no scheduler on this machine, a node that is lost
            raise ConfigError(f"hydra/launcher={settings.launcher}: {_message(error)}") from error


def _launched(config: DictConfig, jobs: dict[str, Job], sweep: Path) -> None:
    """What runs where the launcher brought it, for the job whose name it was given."""
    perform_all([jobs[config.run_name]], sweep)


def _parsed(text: str) -> Override:
    override = parsed_override(text)
    key = override.get_key_element()
    if not _KEY.fullmatch(key):
        raise refused_of_hydra(key)
    if any(key == code or key.startswith(f"{code}.") for code in _CODE):
        raise ConfigError(f"{key}: is not supported; write what to search on the command line, KEY=interval(A,B)")
    if override.is_sweep_override():
        raise ConfigError(f"{key}: takes one value; only settings of a run can be swept")
    if "${" in text or "_target_" in text:
        raise ConfigError(f"{key}: resolvers and _target_ are not allowed; write the value")
    return override


@contextmanager
def _opened_hydra(program: Program) -> Iterator[ConfigLoader]:
    """Hydra over conf/ alone."""
    store_defaults(program.name, program.command.schema)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name=f"est-{program.name}"):
        yield GlobalHydra.instance().config_loader()


def _refuse_missing(group: str, choice: str, options: list[str]) -> None:
    if choice in options:
        return
    if choice in _EXTRAS:
        raise ConfigError(f"{group}: {choice} is a plugin; {install_hint(_EXTRAS[choice])}")
    raise ConfigError(f"{group}: no option {choice!r}; choose one of {', '.join(options)}")


def _message(error: BaseException) -> str:
    """`KEY: what Hydra or a plugin says`, in one line."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    return f"{getattr(cause, 'full_key', None) or 'hydra'}: {line}"
