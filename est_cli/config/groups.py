"""Config groups: the folders of conf/ and of --config-dir, their files the options. No Hydra is needed to list them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from est_cli.common.errors import ConfigError
from est_cli.config.schedulers import is_outside, outside_names
from est_cli.config.setting import settings_of

_PACKAGE = Path(__file__).resolve().parents[1]
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
"""The config folder: inside the wheel, or beside the package in a checkout."""

WITH_A_DEFAULT = ("launch", "sampling", "tracking", "train")
"""Groups whose usual option is what the dataclass says."""

_FEW = 12
"""Options that are listed although the right one is guessed."""


def options_of_groups(config_dir: str | None) -> dict[str, list[str]]:
    """Config groups and their options, those of --config-dir included; `team/a` is the file a.yaml in a folder team."""
    groups = {group: {"default"} for group in WITH_A_DEFAULT}
    groups |= {folder.name: set() for folder in CONF.iterdir() if folder.is_dir()}
    for root in [CONF, *([Path(config_dir)] if config_dir else [])]:
        for group, options in groups.items():
            folder = root / group
            options.update(file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("**/*.yaml"))
    return {group: sorted(options) for group, options in sorted(groups.items())}


def groups_of(schema: type, config_dir: str | None) -> dict[str, list[str]]:
    """The groups that a command with this schema has; one without a model has no recipes either."""
    fields = {key.partition(".")[0] for key in settings_of(schema)}
    fields |= {"experiment"} if "model" in fields else set()
    return {group: options for group, options in options_of_groups(config_dir).items() if group in fields}


def check_choice(group: str, choice: Any, options: list[str]) -> None:
    """ConfigError unless the group has this option; of recipes there may be a list."""
    if group == "experiment":
        chosen = choice if isinstance(choice, list) else [] if choice is None else [choice]
    else:
        chosen = [choice]
    for one in chosen:
        if not (isinstance(one, str) and one in options) and not (group == "scheduler" and is_outside(one)):
            more = outside_names() if group == "scheduler" else []
            raise ConfigError(_no_option(group, one, [*options, *more]))


def _no_option(group: str, choice: Any, options: list[str]) -> str:
    shown = "null" if choice is None else repr(choice)
    hint = difflib.get_close_matches(str(choice), options, n=1)
    meant = f"did you mean {hint[0]!r}? " if hint else ""
    if hint and len(options) > _FEW:
        return f"{group}: no option {shown}; {meant}--help lists all {len(options)}"
    return f"{group}: no option {shown}; {meant}choose one of {', '.join(options)}"
