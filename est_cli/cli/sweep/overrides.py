"""The command line of a sweep taken apart: settings of the plugins, what is fixed, what is swept, all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from est_cli.cli.command import Command
from est_cli.common.errors import ConfigError
from est_cli.config.command_line import CommandLine
from est_cli.config.compose import checked_overrides, composed, parsed_override
from est_cli.config.groups import check_choice, groups_of
from est_cli.config.resolvers import filled
from est_cli.config.setting import settings_of


@dataclass(frozen=True)
class Parts:
    """A command line with -m."""

    command: Command
    settings: list[str]
    """What goes to Hydra's launcher and sweeper plugins, as typed."""
    fixed: list[str]
    """As typed, without `sweep=`."""
    swept: dict[str, Override]
    """By key, in the order of the command line."""
    folder: str | None
    """The value of `sweep=`."""
    groups: dict[str, list[str]]
    """Config groups and their options."""
    config_dir: str | None

    @property
    def known(self) -> list[str]:
        """All keys and groups."""
        return [*settings_of(self.command.schema), *self.groups]


def take_apart(command: Command, no_place: Mapping[str, str], line: CommandLine) -> Parts:
    """ConfigError for unknown keys and options, and for keys that have no place in a sweep, with their reason."""
    settings = [arg for arg in line.overrides if arg.lstrip("+~").startswith(("hydra.", "hydra/"))]
    args = [arg for arg in line.overrides if arg not in settings]
    groups = groups_of(command.schema, line.config_dir)
    args = _swept_by_recipes(command, args, line.config_dir) + args
    overrides = checked_overrides(args, command.schema, groups, sweeping=True)
    keys = [override.key_or_group for override in overrides]
    for key, override in zip(keys, overrides, strict=True):
        if key in no_place:
            raise ConfigError(f"{key}: {no_place[key]}")
        if override.is_sweep_override():
            _check(key, override, groups)
    swept = {override.key_or_group: override for override in overrides if override.is_sweep_override()}
    for key in swept:
        if keys.count(key) > 1:
            raise ConfigError(f"{key}: is given twice; give all its values at once, {key}=A,B")
    folder = [override.value() for override in overrides if override.key_or_group == "sweep"]
    fixed = [arg for arg, key in zip(args, keys, strict=True) if key not in swept and key != "sweep"]
    name = None if not folder or folder[-1] is None else filled("sweep", str(folder[-1]))
    return Parts(command, settings, fixed, swept, name, groups, line.config_dir)


def without_sweeps(command: Command, line: CommandLine) -> CommandLine:
    """A command line with -m as all its jobs have it: without what is swept and where."""
    parts = take_apart(command, {}, line)
    options = [arg for arg in line.argv if arg not in line.overrides]
    return replace(line, argv=[*options, *parts.fixed], overrides=parts.fixed)


def _swept_by_recipes(command: Command, args: list[str], config_dir: str | None) -> list[str]:
    """What hydra.sweeper.params of the chosen experiments sweep and the command line does not name, as overrides."""
    overrides = [parsed_override(arg) for arg in args]
    fixed = {it.key_or_group: arg for it, arg in zip(overrides, args, strict=True) if not it.is_sweep_override()}
    if "experiment" not in fixed:
        return []
    recipes = composed(command.name, command.schema, [fixed["experiment"]], config_dir).swept
    named = {override.key_or_group for override in overrides}
    return [f"{key}={values}" for key, values in recipes.items() if key not in named]


def combinations(parts: Parts) -> Iterator[dict[str, str]]:
    """Swept key -> value as an override has it, for every job, the last key fastest; none twice."""
    values = [dict.fromkeys(values_of(override, parts.groups)) for override in parts.swept.values()]
    for choice in itertools.product(*values):
        yield dict(zip(parts.swept, choice, strict=True))


def shown(key: str, text: str) -> str:
    """The value as a person reads it: without the quotes that an override may need."""
    value = OverridesParser.create().parse_override(f"{key}={text}").value()
    return value if isinstance(value, str) else text


def _check(key: str, override: Override, groups: dict[str, list[str]]) -> None:
    if key in ("sweep", "paths.outputs"):
        raise ConfigError(f"{key}: is one folder for all jobs; give one name")
    if key in groups and override.is_discrete_sweep():
        for text in values_of(override, groups):
            check_choice(key, shown(key, text) if text != "null" else None, groups[key])


def values_of(override: Override, groups: Mapping[str, list[str]]) -> list[str]:
    """What is swept over, each as an override has it. ConfigError where there is nothing, or no end to it."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, Glob):
        found = value.filter(groups.get(key, []))
    elif override.is_discrete_sweep():
        try:
            found = [str(text) for text in override.sweep_string_iterator()]
        except HydraException as error:
            raise ConfigError(f"{key}: {error}") from error
    else:
        raise ConfigError(f"{key}: interval() is for a search, hydra/sweeper=optuna; list the values, {key}=A,B")
    if not found:
        raise ConfigError(f"{key}: {override.input_line or key} has no values to sweep over")
    return found
