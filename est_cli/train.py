"""est-train: pre-train a language model. `est-train --help` explains the settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.rank import rank_of_environment
from est_cli.common.signals import signals_deferred
from est_cli.config import RunConfig
from est_cli.config.compose import SweepCommand, run_hydra
from est_cli.training.start import resolve_resume


def main(argv: Sequence[str]) -> None:
    run_hydra("train", RunConfig, argv, _train, _sweep)


def _sweep(command: SweepCommand) -> None:
    from est_cli.cli.sweep import run_sweep  # what one run has no need of
    from est_cli.cli.sweep.trainings import TRAININGS

    run_sweep(TRAININGS, command)


def _train(config: RunConfig, given: set[str]) -> None:
    key = "launch.num_processes"
    refuse_wrong_launch(os.environ, config.launch.num_processes if key in given else None)
    start = resolve_resume(config, given)
    if start.finished:
        if rank_of_environment().first:
            print(f"{start.folder}: this run is finished, nothing is left to do")
        return
    if start.config.launch.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        from est_cli.cli.launch.launcher import launch  # what one process has no need of

        launch(start)
        return
    with signals_deferred():
        from est_cli.training.build import build  # torch and transformers: only once the configuration is accepted
        from est_cli.training.train import train

    with build(start) as run:
        train(run)


def console() -> None:
    leave(enter("est-train", main))


if __name__ == "__main__":
    console()
