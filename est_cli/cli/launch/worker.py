"""One process that a command launched: `python -m est_cli.cli.launch.worker FOLDER`, for the launcher only."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from est_cli.cli.command import command_named, execute_here
from est_cli.cli.entry import enter, leave
from est_cli.cli.launch.handover import Word, leave_word, name_run, thaw
from est_cli.common.rank import rank_of_environment
from est_cli.config.schema import typed


def main(argv: Sequence[str]) -> None:
    # Outside of the training loop there is nothing to save: a signal ends this process also while it waits for others
    # inside native code, where no Python handler runs.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder = Path(argv[1])
    name, tree, continued = thaw(folder)
    command = command_named(name)
    execute_here(command, command.job_of(typed(tree, command.schema), continued, partial(name_run, folder)))


def end_with_launcher(folder: Path) -> None:
    """End this process and its helpers when stdin closes, which it does when the launcher has ended, however.

    A launcher that was killed has left its `folder` behind: it goes, too.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(ProcessLookupError):  # where this process leads no group
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def console() -> None:
    folder, rank = Path(sys.argv[1]), rank_of_environment().rank
    end_with_launcher(folder)

    def tell(code: int, message: str) -> None:
        leave_word(folder, rank, Word(code, message))

    try:
        code = enter("est-train", main, tell=tell)
    except Exception as bug:
        traceback.print_exc()
        code = 1
        tell(code, type(bug).__name__)
    leave(code)


if __name__ == "__main__":
    console()
