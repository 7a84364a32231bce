"""A fork server: imports what est-train needs once, then forks one victim per request.

`python -m tests.lab.server` reads JSON objects, one a line: {"command", "argv", "cwd", "plants", "environment", "name"}
starts a victim and answers its process id, {"wait": pid} answers how it ended. A plant is a function of
tests/lab/plants.py, or of another module that its name says.

No torch operation runs in the server itself, so forking it is safe.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import hydra._internal.hydra
import hydra.core.utils
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama  # noqa: F401

import est_cli.training.build
import est_cli.training.train  # noqa: F401  (imported here, as are the models, so that no victim has to)
from est_cli import train
from est_cli.cli.command import execute
from est_cli.cli.entry import enter
from est_cli.common.errors import ConfigError
from est_cli.config import RunConfig
from est_cli.storage.versions import git_commit, versions
from tests.lab import plants
from tests.lab.commands import typed_in
from tests.lab.lab import heed_signals

ALARM_S = 600 if os.environ.get("EST_COMPILE") == "full" else 120


def serve() -> None:
    # Hydra silences all loggers that were made before it; in a real process ours come after it.
    hydra.core.utils.configure_log = hydra._internal.hydra.configure_log = lambda *args: None
    _ = git_commit(), versions()  # remembered, for all victims
    for line in sys.stdin:
        request = json.loads(line)
        answer = _ended(request["wait"]) if "wait" in request else _fork(request)
        print(answer, flush=True)


def _ended(pid: int) -> int:
    """The victim's exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(request: dict[str, Any]) -> int:
    if request["command"] == "train":
        _composed(tuple(request["argv"]))  # here, so that the next victim with these arguments need not do it again
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
    heed_signals()
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    for number, name in enumerate(("/dev/null", f"{request['name']}out.txt", f"{request['name']}err.txt")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666), number)
    for name, *arguments in request["plants"]:
        module, _, function = name.rpartition(".")
        getattr(importlib.import_module(module) if module else plants, function)(*arguments)
    command, argv = request["command"], request["argv"]
    if command == "train":
        return enter("est-train", _est_train, argv)
    return enter(f"est-{command}", importlib.import_module(f"est_cli.{command}").main, [f"est-{command}", *argv])


def _est_train(argv: Sequence[str]) -> None:
    """What est-train does, with the configuration that was composed before."""
    found = _composed(tuple(argv))
    if found is None:
        train.main(["est-train", *argv])
        return
    job = train.COMMAND.accept(*deepcopy(found))
    if job is not None:
        execute(train.COMMAND, job)


@cache
def _composed(argv: tuple[str, ...]) -> tuple[RunConfig, set[str]] | None:
    """The configuration and the keys given, or None where the command line is refused."""
    try:
        config, given = typed_in("train", *argv)
    except ConfigError:
        return None
    return config, given


if __name__ == "__main__":
    serve()
