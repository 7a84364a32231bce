"""Scheduler, stages, sampling, and what est-plan is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from est_cli.config import PlanConfig, RunConfig, SamplingConfig, SchedulerName
from est_cli.derived import max_steps, scheduler_of
from est_cli.est.schedule import SamplingRates, boundary_step


def scheduler_problems(config: RunConfig) -> Iterator[str]:
    stage = config.stage
    keys = ("t1", "t2", "p_h", "p_m", "p_l")
    if config.scheduler.name is SchedulerName.dense:
        for key in keys:
            if getattr(stage, key) is not None:
                yield f"stage.{key}: has no meaning under scheduler=dense; use scheduler=three_stage"
        for key, default in vars(SamplingConfig()).items():
            if getattr(config.sampling, key) != default:
                yield f"sampling.{key}: has no meaning under scheduler=dense; use scheduler=three_stage"
        return
    missing = [key for key in keys if getattr(stage, key) is None]
    yield from (f"stage.{key}: is missing; scheduler={config.scheduler.name.value} needs it" for key in missing)
    if not missing and max_steps(config) >= 1:
        yield from _stages(config)


def _stages(config: RunConfig) -> Iterator[str]:
    stage, steps, problems = config.stage, max_steps(config), 0
    for key in ("t1", "t2"):
        try:
            boundary_step(getattr(stage, key), steps)
        except ValueError as error:
            problems += 1
            yield f"stage.{key}: {error}"
    for key in ("p_h", "p_m", "p_l"):
        try:
            SamplingRates(**{key: getattr(stage, key)})
        except ValueError as error:
            problems += 1
            yield f"stage.{error}"
    if problems == 0:
        try:
            scheduler_of(config)
        except ValueError as error:
            yield str(error)


def plan_problems(config: PlanConfig) -> Iterator[str]:
    if config.target_saving is None:
        return
    if config.scheduler.name is SchedulerName.dense:
        yield "target_saving: scheduler=dense saves nothing; use scheduler=three_stage"
    if not 0.0 < config.target_saving < 1.0:
        yield f"target_saving: {config.target_saving} is out of range; it is a fraction in (0, 1), 0.25 for a quarter"
