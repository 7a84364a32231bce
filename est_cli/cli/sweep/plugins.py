"""Hydra's plugins: a launcher that takes the jobs to a cluster, a sweeper that searches instead of trying all.

All a plugin is given of a job is its folder's name, or the values that it proposes itself: the configuration of a run
is composed and checked by its own command, in the job's own process.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from est_cli.cli.sweep.jobs import Job, asking, make_job
from est_cli.cli.sweep.overrides import Parts
from est_cli.cli.sweep.perform import perform, refuse_more
from est_cli.cli.sweep.program import Program
from est_cli.cli.sweep.rows import Row, Status, is_done
from est_cli.cli.sweep.run_job import noted_signals
from est_cli.cli.sweep.settings import Settings, direction_of, opened_hydra, told_of
from est_cli.common.errors import ConfigError, EstError, StoppedBySignal

_QUIET = (
    *("hydra.sweep.subdir=.", "hydra.output_subdir=null", "hydra.job.chdir=false"),
    *("hydra/job_logging=none", "hydra/hydra_logging=none"),  # "disabled" silences every logger that there is, ours too
)
_FOLDER = "launcher"
"""What a plugin writes itself lies here, inside the sweep's folder."""


def launch_jobs(settings: Settings, jobs: Sequence[Job], sweep: Path) -> None:
    """Hand the jobs that can run and are not done to the launcher, all at once, and wait for them."""
    waiting = {job.name: job for job in jobs if job.problem is None and not is_done(sweep, job)}
    names = ",".join(f"'{name}'" for name in waiting)
    if waiting:
        task = partial(_launched, jobs=waiting, total=len(jobs), sweep=sweep)
        _multirun(jobs[0].program, settings, [f"run_name=choice({names})"], task, sweep)


def search(settings: Settings, parts: Parts[Program], sweep: Path) -> None:
    """Let the sweeper propose values, and tell it the objective of each job."""
    swept = [override.input_line or "" for override in parts.swept.values()]
    _multirun(parts.program, settings, swept, partial(_proposed, parts=parts, sweep=sweep), sweep)


def _launched(config: DictConfig, jobs: dict[str, Job], total: int, sweep: Path) -> float:
    """What runs where the launcher brought it, for the job whose name it was given."""
    job = jobs[config.run_name]
    with noted_signals() as signals:
        row = perform(job, total, sweep, signals)
        refuse_more(signals, job, total)
    return _objective(job.program, row, math.inf)


def _proposed(config: DictConfig, parts: Parts[Program], sweep: Path) -> float:
    """What runs for the values that the sweeper proposes."""
    hydra = HydraConfig.get()
    values = dict(str(text).split("=", 1) for text in hydra.overrides.task)
    job = asking(make_job(int(hydra.job.num) + 1, values, parts, sweep.name), parts)
    total = int(hydra.sweeper.get("n_trials", job.number))
    with noted_signals() as signals:
        row = perform(job, total, sweep, signals, refused=Status.skipped)
        refuse_more(signals, job, total)
    worst = -math.inf if direction_of(hydra.sweeper) == "maximize" else math.inf
    return _objective(job.program, row, worst)


def _objective(program: Program, row: Row, worst: float) -> float:
    value = row.numbers.get(program.objective)
    return worst if value is None else float(value)


def _multirun(
    program: Program,
    settings: Settings,
    overrides: Sequence[str],
    task: Callable[[DictConfig], float],
    sweep: Path,
) -> None:
    ours = [*_QUIET, f"hydra.sweep.dir='{sweep / _FOLDER}'"]
    (sweep / _FOLDER).mkdir(exist_ok=True)
    with opened_hydra(program, settings, ours):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            args = [*ours, *settings.overrides, *overrides]
            hydra.multirun(program.command, task, args, with_log_configuration=False)
        except EstError:
            raise
        except (KeyboardInterrupt, StoppedBySignal) as stop:
            if not settings.launches:
                raise
            told = "jobs that the launcher took go on, and the same command shows them when they are done"
            raise StoppedBySignal(getattr(stop, "signum", signal.SIGINT), told) from stop
        except Exception as error:  # whatever a plugin finds wrong: no scheduler on this machine, a node that is lost
            raise ConfigError(f"hydra/launcher={settings.launcher}: {told_of(error)}") from error
