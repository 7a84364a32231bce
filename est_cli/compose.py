"""From a command line to one typed value: Hydra composes conf/, this module checks the keys.

The only module beside the doors that imports Hydra. Overrides are checked before Hydra sees them, so that a typo is
told with the nearest key, also when it is smuggled in with `+`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose
from hydra import main as hydra_main
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.errors import ConfigError
from est_cli.schema import config_error, leaf_types, leaves_of, typed, unknown_key

_HERE = Path(__file__).resolve().parent
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
"""The config folder: inside the wheel, or beside the package in a checkout."""

_FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn", "--info", "-i")

C = TypeVar("C")


def run_hydra(config_name: str, schema: type[C], argv: Sequence[str], main: Callable[[C, set[str]], None]) -> None:
    """Compose `config_name` with the overrides in `argv` and call main(config, keys the command line sets).

    Raises ConfigError for anything that is wrong with the command line or the configuration files.
    """
    overrides = _checked_overrides(_overrides_in(argv[1:]), schema)
    composed: list[tuple[DictConfig, DictConfig]] = []

    @hydra_main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def hand_over(config: DictConfig) -> None:
        composed.append((config, compose(config_name)))

    # Hydra would print reports of its own; with this it raises, and the door prints one line. For the same reason
    # the work is done after Hydra has returned: it reports a failing job before it passes the exception on.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [argv[0], *_for_hydra(argv[1:], schema)]
    try:
        hand_over()
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error, schema) from error
    for config, bare in composed:  # none after --help and the like
        main(typed(config, schema), _given_keys(config, bare, overrides))


def _overrides_in(args: Sequence[str]) -> list[str]:
    """The arguments that are neither one of Hydra's flags nor the value of one."""
    values = {n + 1 for n, arg in enumerate(args) if arg in _FLAGS_WITH_VALUE}
    return [arg for n, arg in enumerate(args) if not arg.startswith("-") and n not in values]


def _for_hydra(args: Sequence[str], schema: type) -> list[str]:
    """The arguments as Hydra, which reads sys.argv, wants them: `++` for a setting that no file of conf/ mentions."""
    leaves = dict(leaf_types(schema))
    return [f"++{arg}" if arg.partition("=")[0] in leaves else arg for arg in args]


def _checked_overrides(args: list[str], schema: type) -> list[Override]:
    overrides = []
    for arg in args:
        try:
            override = OverridesParser.create().parse_override(arg)
        except HydraException as error:
            raise ConfigError(
                f"{arg}: not an override; write KEY=VALUE, and quote values with special signs"
            ) from error
        _check_override(override, arg, dict(leaf_types(schema)))
        overrides.append(override)
    return overrides


def _check_override(override: Override, arg: str, leaves: dict[str, Any]) -> None:
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return
    if override.is_delete():
        raise ConfigError(f"{arg}: settings cannot be removed; set a value, or null where the setting allows it")
    if override.is_sweep_override():
        raise ConfigError(f"{key}: a list of values to sweep over is not a value; write a list as [a,b]")
    groups = _groups()
    if key in groups:
        _check_choice(key, override.value(), groups[key])
    elif key not in leaves:
        raise ConfigError(unknown_key(key, [*leaves, *groups]))
    elif override.is_add():
        raise ConfigError(f"{key}: is known; write it without the +")


def _check_choice(group: str, choice: Any, options: list[str]) -> None:
    if choice is None and group == "experiment":
        return
    if str(choice) not in options:
        hint = difflib.get_close_matches(str(choice), options, n=1)
        did = f"; did you mean {hint[0]!r}?" if hint else ""
        raise ConfigError(f"{group}: no option {str(choice)!r}; choose one of {', '.join(options)}{did}")


def _groups() -> dict[str, list[str]]:
    folders = [path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"]
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in sorted(folders)}


def _given_keys(composed: DictConfig, bare_config: DictConfig, overrides: list[Override]) -> set[str]:
    """Keys that the command line decides: those it names, all of a group it chooses, all that an experiment sets."""
    given: set[str] = set()
    leaves = leaves_of(OmegaConf.to_container(composed, resolve=True))
    for override in overrides:
        key = override.key_or_group
        given |= {leaf for leaf in leaves if leaf == key or leaf.startswith(f"{key}.")}
    if any(override.key_or_group == "experiment" for override in overrides):
        bare = leaves_of(OmegaConf.to_container(bare_config, resolve=True))
        given |= {leaf for leaf, value in leaves.items() if leaf not in bare or bare[leaf] != value}
    return given
