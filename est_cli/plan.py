"""est-plan: what an est-train command would cost. `est-plan --help` explains the settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from est_cli.cli.entry import enter, leave
from est_cli.common.errors import ConfigError
from est_cli.common.signals import signals_deferred
from est_cli.config import PlanConfig
from est_cli.config.checks import check
from est_cli.config.compose import SweepCommand, run_hydra


def main(argv: Sequence[str]) -> None:
    run_hydra("plan", PlanConfig, argv, _plan, _compare)


def _plan(config: PlanConfig, given: set[str]) -> None:
    if config.resume is not None:
        raise ConfigError("resume: est-plan plans whole runs; leave it null")
    check(config)
    with signals_deferred():
        from est_cli.planning import draw_plans, make_plan, print_plan  # torch: only for an accepted configuration

    plan = make_plan(config)
    print_plan(plan)
    if config.plot is not None:
        draw_plans({f"{plan.model}, {plan.scheduler.name}": plan}, Path(config.plot))
        print(f"plot: {config.plot}")


def _compare(command: SweepCommand) -> None:
    from est_cli.cli.sweep.plans import compare_plans  # what one plan has no need of

    compare_plans(command)


def console() -> None:
    leave(enter("est-plan", main))


if __name__ == "__main__":
    console()
