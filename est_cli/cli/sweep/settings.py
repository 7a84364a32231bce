"""The settings of Hydra's launcher and sweeper plugins, the only ones of Hydra's own that a command line may have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from est_cli.cli.sweep.overrides import Parts
from est_cli.cli.sweep.program import Program
from est_cli.common.errors import ConfigError, install_hint
from est_cli.config.compose import CONF, parsed_override, store_defaults

_GROUPS = ("hydra/launcher", "hydra/sweeper")
_KEY = re.compile(r"hydra/(launcher|sweeper)(/[a-z]\w*)?|hydra\.(launcher|sweeper)(\.[A-Za-z]\w*)+")
_CODE = ("hydra.sweeper.params", "hydra.sweeper.search_space", "hydra.sweeper.custom_search_space")
_EXTRAS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "optuna": "search"}
"""Plugins that an extra of this package installs."""


@dataclass(frozen=True)
class Settings:
    """Which plugins, and their settings as overrides."""

    overrides: list[str]
    launcher: str = "basic"
    sweeper: str = "basic"

    @property
    def launches(self) -> bool:
        return self.launcher != "basic"

    @property
    def searches(self) -> bool:
        return self.sweeper != "basic"


def read_settings(parts: Parts[Program]) -> Settings:
    """ConfigError for a plugin that is not installed, and for settings that it does not have or must not be given."""
    chosen: dict[str, Any] = {}
    for text in parts.settings:
        override = _parsed(text)
        chosen[override.key_or_group] = override.value()
    launcher, sweeper = (str(chosen.get(group, "basic")) for group in _GROUPS)
    defaults = _defaults(parts.program, launcher, sweeper, chosen)
    settings = Settings([*parts.settings, *defaults], launcher, sweeper)
    if parts.settings:
        _check(parts.program, settings)
    return settings


def _defaults(program: Program, launcher: str, sweeper: str, chosen: Mapping[str, Any]) -> list[str]:
    """For a search: the same command again makes the same proposals, and each knows how the one before it did."""
    defaults: dict[str, Any] = {}
    if sweeper == "optuna":
        defaults["hydra.sweeper.direction"] = program.directions[0]
    if sweeper == "optuna" and chosen.get("hydra/sweeper/sampler") != "grid":
        defaults["hydra.sweeper.sampler.seed"] = 0
    if sweeper == "optuna" and launcher == "basic":
        defaults["hydra.sweeper.n_jobs"] = 1
    return [f"{key}={value}" for key, value in defaults.items() if key not in chosen]


def _parsed(text: str) -> Override:
    override = parsed_override(text)
    key = override.get_key_element()
    if not _KEY.fullmatch(key):
        raise ConfigError(f"{key}: Hydra's own settings are fixed, but for hydra.launcher and hydra.sweeper under -m")
    if any(key == code or key.startswith(f"{code}.") for code in _CODE):
        raise ConfigError(f"{key}: is not supported; write what to search on the command line, KEY=interval(A,B)")
    if override.is_sweep_override():
        raise ConfigError(f"{key}: takes one value; only settings of a run can be swept")
    if "${" in text or "_target_" in text:
        raise ConfigError(f"{key}: resolvers and _target_ are not allowed; write the value")
    return override


def _check(program: Program, settings: Settings) -> None:
    with opened_hydra(program, settings) as config:
        launcher, sweeper = config.hydra.launcher, config.hydra.sweeper
        for key in ("nodes", "tasks_per_node"):
            if launcher.get(key, 1) != 1:
                raise ConfigError(
                    f"hydra.launcher.{key}: must be 1; a job starts its processes by launch.num_processes"
                )
        if settings.searches and direction_of(sweeper) not in program.directions:
            allowed = " or ".join(program.directions)
            raise ConfigError(f"hydra.sweeper.direction: must be {allowed}; the objective is {program.objective}")


def direction_of(sweeper: DictConfig) -> str:
    """minimize or maximize, where the settings are right."""
    direction = sweeper.get("direction", "minimize")
    return str(getattr(direction, "name", direction))


@contextmanager
def opened_hydra(program: Program, settings: Settings, overrides: Sequence[str] = ()) -> Iterator[DictConfig]:
    """Hydra with its own settings for these plugins, composed from conf/ alone."""
    store_defaults(program.command, program.schema)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name=program.name):
        loader = GlobalHydra.instance().config_loader()
        for group, choice in zip(_GROUPS, (settings.launcher, settings.sweeper), strict=True):
            _refuse_missing(group, choice, loader.get_group_options(group))
        try:
            args = [*settings.overrides, *overrides]
            yield loader.load_configuration(program.command, args, run_mode=RunMode.MULTIRUN)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(told_of(error)) from error


def _refuse_missing(group: str, choice: str, options: list[str]) -> None:
    if choice in options:
        return
    if choice in _EXTRAS:
        raise ConfigError(f"{group}: {choice} is a plugin; {install_hint(_EXTRAS[choice])}")
    raise ConfigError(f"{group}: no option {choice!r}; choose one of {', '.join(options)}, or install its plugin")


def told_of(error: BaseException) -> str:
    """`KEY: what Hydra or a plugin says`, in one line."""
    cause = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    return f"{getattr(cause, 'full_key', None) or 'hydra'}: {line}"
