"""Scheduler, stages, sampling, and what est-plan is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from est_cli.config import HF, OptimConfig, RunConfig, SamplingConfig
from est_cli.config.resolve import max_steps, scheduler_of
from est_cli.config.schedulers import GROWING, READS, as_list
from est_cli.est.schedule import SamplingRates, boundary_step

MAX_STAGES = 32
"""Each stage may be another set of shapes to compile."""


def scheduler_problems(config: RunConfig) -> Iterator[str]:
    name, stage = config.scheduler.name, config.stage
    reads = READS[name]
    yield from _meaningless(config)
    given = {key: getattr(stage, key) for key in reads.stage if getattr(stage, key) is not None}
    missing = [key for key in reads.stage if key not in given and key not in reads.optional]
    yield from (f"stage.{key}: is missing; scheduler={name.value} needs it" for key in missing)
    if name in GROWING:
        yield from _growth(config)
    if max_steps(config) < 1:
        return
    wrong = [problem for key, value in given.items() for problem in _value(key, value, max_steps(config))]
    yield from wrong
    if not missing and not wrong:
        try:
            scheduler_of(config)
        except ValueError as error:
            yield str(error)


def _growth(config: RunConfig) -> Iterator[str]:
    """What a model that gets its layers one after the other does not go with."""
    name = config.scheduler.name.value
    if config.model.family == HF and config.model.pretrained:
        yield f"model.pretrained: scheduler={name} grows a model that begins untrained; set it to false"


def _meaningless(config: RunConfig) -> Iterator[str]:
    """Settings that the scheduler does not read."""
    name = config.scheduler.name
    for key, value in vars(config.stage).items():
        if value is not None and key not in READS[name].stage:
            reader = next(other for other, reads in READS.items() if key in reads.stage)
            yield f"stage.{key}: has no meaning under scheduler={name.value}; use scheduler={reader.value}"
    for key, default in vars(SamplingConfig()).items():
        if getattr(config.sampling, key) != default and key not in READS[name].sampling:
            word = str(default).lower()
            yield f"sampling.{key}: has no meaning under scheduler={name.value}; leave it {word}"
    for key in ("skipped_layers", "unsampled_rows"):
        default = getattr(OptimConfig(), key)
        if getattr(config.optim, key) is not default and key not in READS[name].optim:
            yield f"optim.{key}: has no meaning under scheduler={name.value}; leave it {default.value}"


def _value(key: str, value: Any, steps: int) -> Iterator[str]:
    """What is wrong with one value of stage, whatever the others are."""
    if key in _LISTS:
        yield from _list(key, as_list(value))
    elif key in ("t1", "t2"):
        try:
            boundary_step(value, steps)
        except ValueError as error:
            yield f"stage.{key}: {error}"
    elif key == "levels":
        if not 1 <= value < MAX_STAGES:
            yield f"stage.levels: {value} is out of range; it must be at least 1 and at most {MAX_STAGES - 1}"
    elif key == "gamma":
        if not (math.isfinite(value) and value > 0.0):
            yield f"stage.gamma: {value} is out of range; it must be above 0"
    else:
        try:
            SamplingRates(p_l=value)
        except ValueError as error:
            yield f"stage.{key}: {str(error).partition(': ')[2]}"


_LISTS = {
    "boundaries": "a list of steps (int) and fractions of the run (float), such as [0.1,0.4]",
    "depths": "a list of numbers of layers (int) and shares of them (float), such as [1,0.5]",
    "rates": "a list with [p_h,p_m,p_l] for each stage, such as [[0.5,0.5,0.5],[1,1,1]]",
}


def _list(key: str, values: Any) -> Iterator[str]:
    def fits(value: Any) -> bool:
        if key == "rates":
            return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))
        return _is_number(value)

    wrong = [value for value in values if not fits(value)]
    if wrong or not values:
        yield f"stage.{key}: {repr(wrong[0])[:80] if wrong else '[]'} is not {'in ' if wrong else ''}{_LISTS[key]}"
        return
    most = MAX_STAGES if key == "rates" else MAX_STAGES - 1  # the last stage has no boundary behind it
    if len(values) > most:
        yield f"stage.{key}: has {len(values)} entries; a run has at most {MAX_STAGES} stages, so {most} of them"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
