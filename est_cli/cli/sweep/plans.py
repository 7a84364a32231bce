"""What `est-plan -m` does: a plan for every combination, side by side. Nothing is run or written but a picture."""

from __future__ import annotations

from est_cli.cli.command import command_named
from est_cli.cli.sweep.overrides import Parts, combinations, shown, take_apart
from est_cli.common.errors import ConfigError
from est_cli.common.signals import signals_deferred
from est_cli.config import PlanConfig
from est_cli.config.command_line import CommandLine
from est_cli.config.compose import composed
from est_cli.config.method import refuse_stage_option

_NO_PLACE = {
    "resume": "est-plan plans whole runs; leave it out",
    "run_name": "has no meaning for plans; leave it out",
    "sweep": "has no meaning for plans; leave it out",
}

_Checked = PlanConfig | ConfigError


def compare_plans(line: CommandLine) -> None:
    """Print the plans that the command line asks for. Raises ConfigError, also where none of them can be made."""
    parts = take_apart(command_named("plan"), _NO_PLACE, line)
    if parts.settings:
        raise ConfigError(f"{parts.settings[0].partition('=')[0]}: est-plan -m plans every combination itself")
    if "plot" in parts.swept:
        raise ConfigError("plot: is one picture of all plans; give one name")
    chosen = {_label(values, parts): _checked(values, parts) for values in combinations(parts)}
    if not any(isinstance(found, PlanConfig) for found in chosen.values()):
        raise next(found for found in chosen.values() if isinstance(found, ConfigError))
    with signals_deferred():
        from est_cli.planning.side_by_side import plan_all  # torch and transformers: only for accepted configurations

    plan_all(chosen)


def _label(values: dict[str, str], parts: Parts) -> str:
    """`raptr, seed=1`: options of groups speak for themselves."""
    words = {key: shown(key, text) for key, text in values.items()}
    named = ", ".join(word if key in parts.groups else f"{key}={word}" for key, word in words.items())
    return named or "as given"


def _checked(values: dict[str, str], parts: Parts) -> _Checked:
    """The configuration of one combination, or why it is none."""
    overrides = [*parts.fixed, *(f"{key}={text}" for key, text in values.items())]
    try:
        found = composed("plan", PlanConfig, overrides, parts.config_dir)
        refuse_stage_option(found.chosen)
        accepted: PlanConfig = command_named("plan").accept(found.config, found.given)
    except ConfigError as error:
        return error
    return accepted
