"""From a command line to what is done: a question answered, a sweep begun, or an accepted configuration carried out."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import Any

from est_cli.cli.command import Command, execute, function_of
from est_cli.cli.help import help_page, topic_page
from est_cli.cli.launch.environment import refuse_wrong_launch
from est_cli.common.errors import StoppedBySignal
from est_cli.common.rank import rank_of_environment
from est_cli.config.command_line import CommandLine, parse
from est_cli.config.compose import Composed, answer, composed
from est_cli.config.groups import groups_of
from est_cli.config.method import refuse_stage_option


def dispatch(command: Command, argv: Sequence[str]) -> None:
    """Do what the command line says. Any EstError may come out of it, and StoppedBySignal."""
    no_sweep = f"est-{command.name} takes one value of each key; est-train -m sweeps"
    line = parse(argv, command.schema, None if command.sweep else no_sweep)
    if line.asks:
        _answer(command, line)
        return
    if line.multirun:
        assert command.sweep is not None
        function_of(command.sweep)(line)
        return
    found: Composed[Any] = composed(command.name, command.schema, line.overrides, line.config_dir)
    if command.launches:
        chosen = found.config.launch.num_processes if "launch.num_processes" in found.given else None
        refuse_wrong_launch(os.environ, chosen, command.name)
    refuse_stage_option(found.chosen)
    job = command.accept(found.config, found.given)
    if job is None:
        return
    if found.swept and getattr(found.config, "sweep", None) is None and rank_of_environment().first:
        keys = ", ".join(found.swept)
        print(f"est-{command.name}: one run; -m makes the recipe's sweep over {keys}", file=sys.stderr, flush=True)
    try:
        execute(command, job)
    except (StoppedBySignal, KeyboardInterrupt) as stop:
        if not command.stopped:
            raise
        raise StoppedBySignal(getattr(stop, "signum", signal.SIGINT), command.stopped) from None


def _answer(command: Command, line: CommandLine) -> None:
    """Of a sweep the answer is about what its jobs share."""
    if line.multirun:
        from est_cli.cli.sweep.overrides import without_sweeps

        line = without_sweeps(command, line)
    found: Composed[Any] = composed(command.name, command.schema, line.overrides, line.config_dir)
    if not line.help:
        answer(command.name, command.schema, line.argv)
        return
    refuse_stage_option(found.chosen)
    groups, width = groups_of(command.schema, line.config_dir), shutil.get_terminal_size((80, 24)).columns
    if line.topics:
        print(topic_page(line.topics, found.config, groups, width))
    else:
        print(help_page(f"est-{command.name}", command.usage, found.config, groups, width))
