"""est-analyze: what the loss looks like around a checkpoint. `est-analyze --help` explains the settings."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import signals_deferred
from est_cli.config import AnalyzeConfig
from est_cli.config.checks.analyze import check_analyze
from est_cli.config.compose import run_hydra
from est_cli.storage.run_dir import check_run_name


def main(argv: Sequence[str]) -> None:
    run_hydra("analyze", AnalyzeConfig, argv, _analyze)


def _analyze(config: AnalyzeConfig, given: set[str]) -> None:
    check_analyze(config)
    if config.run_name is not None:
        check_run_name(config.run_name)
    from est_cli.analysis.preflight import CONTINUES, check_asked  # what --help has no need of

    check_asked(config)
    asked = config.launch.num_processes if "launch.num_processes" in given else None
    refuse_wrong_launch(os.environ, asked, "analyze")
    try:
        _run(config)
    except (StoppedBySignal, KeyboardInterrupt) as stop:
        signum = stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT
        raise StoppedBySignal(signum, CONTINUES) from None


def _run(config: AnalyzeConfig) -> None:
    if config.launch.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        from est_cli.cli.launch.launcher import launch  # what one process has no need of

        launch(config)
        return
    with signals_deferred():
        from est_cli.analysis.run import analyse  # torch and transformers: only once the configuration is accepted

    analyse(config)


def console() -> None:
    leave(enter("est-analyze", main))


if __name__ == "__main__":
    console()
