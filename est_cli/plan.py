"""est-plan: what an est-train command would cost. `est-plan --help` explains the settings."""

from __future__ import annotations

from collections.abc import Sequence

from est_cli.checks import check
from est_cli.compose import run_hydra
from est_cli.config import PlanConfig
from est_cli.door import enter, leave
from est_cli.errors import ConfigError


def main(argv: Sequence[str]) -> None:
    run_hydra("plan", PlanConfig, argv, _plan)


def _plan(config: PlanConfig, given: set[str]) -> None:
    if config.resume is not None:
        raise ConfigError("resume: est-plan plans whole runs; leave it null")
    check(config)
    from est_cli.planning import make_plan, print_plan  # torch and transformers: only for an accepted configuration

    print_plan(make_plan(config))


def console() -> None:
    leave(enter("est-plan", main))


if __name__ == "__main__":
    console()
