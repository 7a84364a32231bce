"""A fork server: imports what est-train needs once, then forks one victim per request.

`python -m tests.loop.server` reads JSON objects, one a line: {"argv", "cwd", "plants"} starts a victim and answers its
process id, {"wait": pid} answers how it ended. No torch operation runs in the server itself, so forking it is safe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import est_cli.loop  # noqa: F401  (imported here so that no victim has to)
from est_cli.door import enter
from est_cli.train import main as est_train
from tests.loop import plants

ALARM_S = 120


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer = _ended(request["wait"]) if "wait" in request else _fork(request)
        print(answer, flush=True)


def _ended(pid: int) -> int:
    """The victim's exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.alarm(ALARM_S)
        code = _victim(request)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _victim(request: dict[str, Any]) -> int:
    os.chdir(request["cwd"])
    for number, name in enumerate(("/dev/null", "out.txt", "err.txt")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), number)
    for name, *arguments in request["plants"]:
        getattr(plants, name)(*arguments)
    return enter("est-train", est_train, ["est-train", *request["argv"]])


if __name__ == "__main__":
    serve()
