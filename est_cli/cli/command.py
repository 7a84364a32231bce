"""A command is one row: its name, its settings, what is checked, what runs, what -m does. run() takes it from there.

A module est_cli.NAME with a COMMAND is the command est-NAME. Nothing heavy is imported before a configuration is
accepted: what runs is named as `module:function`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from est_cli.cli.help import help_page
from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.errors import StoppedBySignal
from est_cli.common.signals import held
from est_cli.config.compose import CommandLine, Composed, answer, checked_overrides, composed, groups_of, parse
from est_cli.config.method import refuse_stage_option


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    """`train` stands for est-train, conf/train.yaml and est_cli.train."""
    schema: type
    usage: str
    """What `--help` says before the settings."""
    accept: Callable[[Any, set[str]], Any]
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


def command_named(name: str) -> Command:
    """The command est-NAME."""
    command: Command = import_module(f"est_cli.{name}").COMMAND
    return command


def run(command: Command, argv: Sequence[str]) -> None:
    """Do what the command line says. Any EstError may come out of it, and StoppedBySignal."""
    line = parse(
        argv, None if command.sweep else f"est-{command.name} takes one value of each key; est-train -m sweeps"
    )
    if line.multirun:
        assert command.sweep is not None
        _function(command.sweep)(line)
        return
    if line.asks:
        _answer(command, line, argv)
        return
    found: Composed[Any] = composed(command.name, command.schema, line.overrides, line.config_dir)
    if command.launches:
        chosen = found.config.launch.num_processes if "launch.num_processes" in found.given else None
        refuse_wrong_launch(os.environ, chosen, command.name)
    refuse_stage_option(found.chosen)
    job = command.accept(found.config, found.given)
    if job is None:
        return
    try:
        execute(command, job)
    except (StoppedBySignal, KeyboardInterrupt) as stop:
        if not command.stopped:
            raise
        raise StoppedBySignal(getattr(stop, "signum", signal.SIGINT), command.stopped) from None


def execute_here(command: Command, job: Any) -> None:
    """Do the job in this process."""
    with held():  # torch and transformers: only for an accepted configuration
        function = _function(command.run)
    function(job)


def execute(command: Command, job: Any) -> None:
    """Do the job in this process, or in as many as its configuration asks for."""
    if command.launches and command.config_of(job).launch.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        from est_cli.cli.launch.launcher import launch  # what one process has no need of

        launch(command, job)
    else:
        execute_here(command, job)


def _answer(command: Command, line: CommandLine, argv: Sequence[str]) -> None:
    if not line.help:
        checked_overrides(line.overrides, command.schema, groups_of(command.schema, line.config_dir))
        answer(command.name, command.schema, argv)
        return
    found: Composed[Any] = composed(command.name, command.schema, line.overrides, line.config_dir)
    refuse_stage_option(found.chosen)
    print(help_page(command.usage, found.config, groups_of(command.schema, line.config_dir)))


def _function(path: str) -> Callable[[Any], None]:
    module, _, name = path.partition(":")
    function: Callable[[Any], None] = getattr(import_module(module), name)
    return function
