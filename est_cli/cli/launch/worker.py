"""One process that a command launched: `python -m est_cli.cli.launch.worker FOLDER`, for the launcher only."""

from __future__ import annotations

import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.handover import WorkerExit, load_job, write_exit, write_run_folder
from est_cli.common.child import end_with_parent
from est_cli.common.rank import rank_of_environment
from est_cli.config import AnalyzeConfig, EvalConfig


def main(argv: Sequence[str]) -> None:
    # Outside of the training loop there is nothing to save: a signal ends this process also while it waits for others
    # inside native code, where no Python handler runs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = Path(argv[1])
    start = load_job(folder)
    if isinstance(start, EvalConfig):
        from est_cli.evaluation.run import evaluate

        evaluate(start)
        return
    if isinstance(start, AnalyzeConfig):
        from est_cli.analysis.run import analyse

        analyse(start)
        return
    from est_cli.training.build import build
    from est_cli.training.train import train

    with build(start) as run:
        if rank_of_environment().first:
            write_run_folder(folder, run.dir.root)
        train(run)


def console() -> None:
    folder, rank = Path(sys.argv[1]), rank_of_environment().rank
    # A launcher that was killed has left its folder behind: it goes, too.
    end_with_parent(finish=lambda: shutil.rmtree(folder, ignore_errors=True))

    def tell(code: int, message: str) -> None:
        write_exit(folder, rank, WorkerExit(code, message))

    try:
        code = enter("est-train", main, tell=tell)
    except Exception as bug:
        traceback.print_exc()
        code = 1
        tell(code, type(bug).__name__)
    leave(code)


if __name__ == "__main__":
    console()
