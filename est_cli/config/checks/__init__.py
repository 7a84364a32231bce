"""Ranges and contradictions of a configuration, found before anything heavy is imported or written."""

from __future__ import annotations

from est_cli.common.errors import ConfigError
from est_cli.config import HF, PlanConfig, RunConfig
from est_cli.config.checks.data import dataset_problems
from est_cli.config.checks.launch import launch_problems
from est_cli.config.checks.method import scheduler_problems
from est_cli.config.checks.model import fit_problems, model_problems, preset_sizes
from est_cli.config.checks.optim import optim_problems
from est_cli.config.checks.plan import of_any_length, plan_problems
from est_cli.config.checks.training import stage_batch_problems, train_problems
from est_cli.est.spec import ModelSpec


def check(config: RunConfig) -> None:
    """Raise one ConfigError that names every problem: `<key>: <what, and what would be right>`."""
    asked, config = config, of_any_length(config)
    problems = [
        *model_problems(config),
        *dataset_problems(config),
        *train_problems(config),
        *optim_problems(config),
        *scheduler_problems(config),
        *launch_problems(config),
    ]
    if isinstance(asked, PlanConfig):
        problems += plan_problems(asked)
    if not problems and config.model.family != HF:
        problems = [*fit_problems(config, preset_sizes(config.model))]
    if not problems:
        problems = [*stage_batch_problems(config)]
    if problems:
        raise ConfigError("; also ".join(problems))


def check_fit(config: RunConfig, sizes: ModelSpec) -> None:
    """Raise ConfigError where the run does not fit the model. check() does it for presets, whose sizes it knows."""
    for problem in fit_problems(of_any_length(config), sizes):
        raise ConfigError(problem)
