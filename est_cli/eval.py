"""est-eval: how good a checkpoint is, fine-tuned on GLUE or zero-shot. `est-eval --help` explains the settings."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence

from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import signals_deferred
from est_cli.config import EvalConfig
from est_cli.config.checks.eval import check_eval
from est_cli.config.compose import SweepCommand, run_hydra
from est_cli.storage.run_dir import check_run_name

_SEVERAL = re.compile(r"""task=([^][(){}'"]+,[^][(){}'"]*)""")


def main(argv: Sequence[str]) -> None:
    run_hydra("eval", EvalConfig, [_listed(arg) for arg in argv], _eval, _sweep)


def _listed(arg: str) -> str:
    """`task=cola,sst2` is a list, also under -m: a bare comma would be Hydra's sweep."""
    found = _SEVERAL.fullmatch(arg)
    return f"task=[{found[1]}]" if found else arg


def _sweep(command: SweepCommand) -> None:
    from est_cli.cli.sweep import run_sweep  # what one evaluation has no need of
    from est_cli.cli.sweep.evaluations import EVALUATIONS

    run_sweep(EVALUATIONS, command)


def _eval(config: EvalConfig, given: set[str]) -> None:
    check_eval(config)
    for key, name in (("run_name", config.run_name), ("sweep", config.sweep)):
        if name is not None:
            check_run_name(name, key)
    from est_cli.evaluation.preflight import check_asked  # what --help has no need of

    check_asked(config)
    refuse_wrong_launch(os.environ, config.launch.num_processes if "launch.num_processes" in given else None, "eval")
    try:
        _run(config)
    except (StoppedBySignal, KeyboardInterrupt) as stop:
        signum = stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT
        raise StoppedBySignal(
            signum, "finished fine-tunings are kept; the same command goes on with the rest"
        ) from None


def _run(config: EvalConfig) -> None:
    if config.launch.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        from est_cli.cli.launch.launcher import launch  # what one process has no need of

        launch(config)
        return
    with signals_deferred():
        from est_cli.evaluation.run import evaluate  # torch and transformers: only once the configuration is accepted

    evaluate(config)


def console() -> None:
    leave(enter("est-eval", main))


if __name__ == "__main__":
    console()
