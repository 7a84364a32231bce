"""`hydra/sweeper=optuna`: Optuna proposes the values of the jobs and learns the objective of each.

The study lives in memory and every command makes it anew. It is seeded, so that the same command makes the same
proposals; of those that are done it hears from their folders. That is how a search is continued.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import MISSING

from est_cli.cli.sweep.jobs import Job, propose
from est_cli.cli.sweep.overrides import Parts, combinations, values_of
from est_cli.cli.sweep.program import Program
from est_cli.cli.sweep.results import LAUNCHER, planned_row, record, rows_of
from est_cli.common.errors import ConfigError, reason
from est_cli.config.compose import parsed_override
from est_cli.storage import disk

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

_GRID = "grid"
_SAMPLERS = {
    _GRID: "RandomSampler",  # never asked: all combinations are queued
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
}
"""Options of hydra/sweeper/sampler and their classes."""
_PLAIN = {"bool", "int", "float", "str", "None", "NoneType", "Optional", "typing", "class"}
"""Words of the types that a command line can write, evaluated or not."""


@dataclass
class SearchConfig:
    """hydra.sweeper.* of a search."""

    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}])
    sampler: Any = MISSING
    """Its name, and arguments of its class."""
    direction: Any = "minimize"
    n_trials: int = 20
    n_jobs: int = 1
    """Proposals that are made, and handed to a launcher, at once."""
    storage: str | None = None
    """URL of a database in which Optuna keeps the study too."""
    study_name: str | None = None


def is_installed() -> bool:
    return find_spec("optuna") is not None


def store_defaults(direction: str, n_jobs: int) -> None:
    """Give Hydra the options hydra/sweeper=optuna and hydra/sweeper/sampler=NAME."""
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node=SearchConfig(direction=direction, n_jobs=n_jobs))
    for name in _SAMPLERS:
        store.store(group="hydra/sweeper/sampler", name=name, node={"name": name, **_arguments(name), "seed": 0})


def check_search(config: SearchConfig, program: Program) -> None:
    """ConfigError for what Hydra lets through."""
    if config.direction not in program.directions:
        allowed = " or ".join(program.directions)
        raise ConfigError(f"hydra.sweeper.direction: must be {allowed}; the objective is {program.objective}")
    for key in ("n_trials", "n_jobs"):
        if getattr(config, key) < 1:
            raise ConfigError(f"hydra.sweeper.{key}: must be at least 1")
    if config.sampler.get("name") not in _SAMPLERS:  # of another package
        raise ConfigError(f"hydra/sweeper/sampler: choose one of {', '.join(_SAMPLERS)}")


class Search:
    """A study over the swept keys of a command line."""

    def __init__(self, config: SearchConfig, program: Program, parts: Parts) -> None:
        """ConfigError for a space or a sampler that cannot be."""
        self.config, self.program, self.parts, self.total = config, program, parts, config.n_trials
        self.worst = -math.inf if config.direction == "maximize" else math.inf
        grid = config.sampler["name"] == _GRID
        with _optuna_errors():
            self.space = {key: _distribution(it, parts.groups, grid) for key, it in parts.swept.items()}
            self.study = _study(config)
            if grid:  # every combination, in order
                queued = list(combinations(parts))[: self.total]
                self.total = len(queued)
                for values in queued:
                    self.study.enqueue_trial(values)

    def run(self, sweep: Path, run_all: Callable[[Sequence[Job], Path], None]) -> None:
        """`run_all` of what is proposed, `n_jobs` at a time. What it raises ends the search."""
        for first in range(1, self.total + 1, self.config.n_jobs):
            numbers = range(first, min(first + self.config.n_jobs, self.total + 1))
            with _optuna_errors():
                trials = [self.study.ask(self.space) for _ in numbers]
            proposed = [{key: _text(value, self.space[key]) for key, value in it.params.items()} for it in trials]
            jobs = [
                propose(number, self.total, values, self.program, self.parts, sweep.name)
                for number, values in zip(numbers, proposed, strict=True)
            ]
            for job in jobs:
                record(self.program, sweep, planned_row(sweep, job))
            run_all(jobs, sweep)
            rows = {row.name: row for row in rows_of(sweep)}
            for trial, job in zip(trials, jobs, strict=True):
                value = rows[job.name].numbers.get(self.program.objective)
                with _optuna_errors():
                    self.study.tell(trial, self.worst if value is None else float(value))
            self._write_best(sweep)

    def _write_best(self, sweep: Path) -> None:
        best = self.study.best_trial
        texts = {key: _text(value, self.space.get(key)) for key, value in best.params.items()}
        params = {key: parsed_override(f"{key}={text}").value() for key, text in texts.items()}
        text = yaml.safe_dump({"name": "optuna", "best_params": params, "best_value": best.value}, sort_keys=False)
        disk.make_folder(sweep / LAUNCHER)
        disk.replace_file(sweep / LAUNCHER / "optimization_results.yaml", text.encode())


def _study(config: SearchConfig) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name, usual = config.sampler["name"], _arguments(config.sampler["name"])
    changed = {key: value for key, value in config.sampler.items() if key != "name" and value != usual[key]}
    sampler = getattr(optuna.samplers, _SAMPLERS[name])(**changed)
    return optuna.create_study(
        storage=config.storage,
        study_name=config.study_name,
        sampler=sampler,
        direction=config.direction,
        load_if_exists=True,
    )


def _arguments(name: str) -> dict[str, Any]:
    """What a command line can say of the sampler's arguments, with their defaults."""
    from optuna import samplers

    found = inspect.signature(getattr(samplers, _SAMPLERS[name])).parameters.values()
    return {it.name: it.default for it in found if set(re.findall(r"\w+", str(it.annotation))) <= _PLAIN}


def _distribution(override: Override, groups: Mapping[str, list[str]], grid: bool) -> BaseDistribution:
    from optuna import distributions

    value: Any = override.value()
    if grid and override.is_interval_sweep():
        key = override.key_or_group
        raise ConfigError(f"{key}: interval() has no grid; list the values, {key}=A,B")
    if grid or not (override.is_interval_sweep() or (override.is_range_sweep() and not value.shuffle)):
        return distributions.CategoricalDistribution([*dict.fromkeys(values_of(override, groups))])
    if override.is_interval_sweep():
        low, high, step, log = value.start, value.end, None, "log" in value.tags
    else:
        numbers: list[Any] = [_exact(parsed_override(f"x={it}").value()) for it in values_of(override, groups)]
        low, high, step, log = min(numbers), max(numbers), abs(value.step), False
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=log, step=step or 1)
    return distributions.FloatDistribution(low, high, log=log, step=step)


def _text(value: Any, distribution: BaseDistribution | None) -> str:
    """The value as an override has it; choices are texts already, and steps such as 0.1 add up inexactly."""
    return str(value if getattr(distribution, "step", None) is None else _exact(value))


def _exact(value: Any) -> Any:
    """0.3 for 0.1 + 2 * 0.1."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


@contextmanager
def _optuna_errors() -> Iterator[None]:
    """ConfigError for whatever Optuna finds wrong."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"hydra/sweeper=optuna: {reason(error)}") from error
