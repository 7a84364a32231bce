"""A command is one row: its name, its settings, what is checked, what runs, what -m does.

A module est_cli.NAME with a COMMAND is the command est-NAME (_MODULES has the exception). Nothing heavy is imported
before a configuration is accepted: what runs is named as `module:function`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from est_cli.common.signals import signals_deferred
from est_cli.config.setting import Given


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    """`train` stands for est-train, conf/train.yaml and est_cli.train."""
    schema: type
    usage: str
    """What `--help` says before the settings."""
    accept: Callable[[Any, Given], Any]
    """Takes the composed configuration and the keys that the command line decides, and gives the job, or None where
    nothing is left to do. Raises an EstError for whatever can be told without torch."""
    run: str
    """`module:function` that does the job."""
    sweep: str | None = None
    """`module:function` that takes the CommandLine of -m."""
    launches: bool = True
    """Whether launch.num_processes starts processes."""
    config_of: Callable[[Any], Any] = lambda job: job
    """The configuration in a job."""
    folder_of: Callable[[Any], Path | None] = lambda job: None
    """The folder of the run that a job continues."""
    job_of: Callable[[Any, Path | None, Callable[[Path], None]], Any] = lambda config, folder, announce: config
    """The job of an accepted configuration and the folder it continues, in a process that another one started; a run
    calls `announce` with its folder as soon as it has one."""
    continues: str = ""
    """How to go on after a failure; empty: with the run's folder."""
    stopped: str = ""
    """What is told after a signal; empty: what the run says itself."""


_MODULES = {"data": "corpus"}
"""Where est_cli.NAME is a room."""


def command_named(name: str) -> Command:
    """The command est-NAME."""
    command: Command = import_module(f"est_cli.{_MODULES.get(name, name)}").COMMAND
    return command


def execute_here(command: Command, job: Any) -> None:
    """Do the job in this process."""
    with signals_deferred():  # torch and transformers: only for an accepted configuration
        function = function_of(command.run)
    function(job)


def execute(command: Command, job: Any) -> None:
    """Do the job in this process, or in as many as its configuration asks for."""
    config = command.config_of(job)
    if command.launches and config.launch.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        from est_cli.cli.launch.launcher import launch  # what one process has no need of

        launch(command.name, config, command.folder_of(job), command.continues)
    else:
        execute_here(command, job)


def function_of(path: str) -> Callable[[Any], None]:
    """What `module:function` names."""
    module, _, name = path.partition(":")
    function: Callable[[Any], None] = getattr(import_module(module), name)
    return function
