"""One process that a command launched: `python -m est_cli.cli.launch.worker FOLDER`, for the launcher only."""

from __future__ import annotations

import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from est_cli.cli.command import command_named, execute_here
from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.handover import WorkerExit, load_job, write_exit, write_run_folder
from est_cli.common.child import end_with_parent
from est_cli.common.rank import rank_of_environment
from est_cli.config.schema import typed


def main(argv: Sequence[str]) -> None:
    # Outside of the training loop there is nothing to save: a signal ends this process also while it waits for others
    # inside native code, where no Python handler runs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = Path(argv[1])
    name, tree, continued = load_job(folder)
    command = command_named(name)
    execute_here(command, command.job_of(typed(tree, command.schema), continued, partial(write_run_folder, folder)))


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
