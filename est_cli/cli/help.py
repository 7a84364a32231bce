"""What `--help` and docs/settings.md say of the settings, both from what their fields say.

python -m est_cli.cli.help > docs/settings.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from est_cli.common.errors import EXIT_CODES
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import leaves_of, plain
from est_cli.config.setting import Setting, settings_of

SETTINGS = "All keys with the values this command line would use:"


def help_page(usage: str, config: Any, groups: Mapping[str, list[str]]) -> str:
    """The page of one command: `usage`, its groups with their options, and a line for each key of `config`."""
    known, values = settings_of(type(config)), leaves_of(plain(config))
    lines = [usage.strip(), "", "Groups (GROUP=OPTION):"] if groups else [usage.strip()]
    lines += [f"  {group}: {', '.join(options)}" for group, options in groups.items()]
    if "scheduler" in groups:
        lines += ["", "Schedulers:", *(f"  {name}: {scheduler_named(name).meaning}" for name in SCHEDULERS)]
    lines += ["", f"Exit codes: {', '.join(EXIT_CODES)}.", "", SETTINGS, ""]
    return "\n".join([*lines, *(f"  {key}={written(values[key])}  # {_in_words(known[key])}" for key in known)])


def _in_words(known: Setting) -> str:
    """The first sentence of what a setting means, and what it may be."""
    meaning = known.meaning.partition(". ")[0].rstrip(".")
    return f"{meaning} ({_allowed(known)})" if _allowed(known) else meaning


def _allowed(known: Setting) -> str:
    """The range or the choices; empty where the type says it all."""
    if known.within is not None:
        return known.within.words.replace(" (0 means never)", ", 0: never")
    return ", ".join(known.words)


def written(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return f"'{value}'" if isinstance(value, str) and (value != value.strip() or not value) else str(value)
