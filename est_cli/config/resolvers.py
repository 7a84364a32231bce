"""`${now:FORMAT}` and `${oc.env:NAME}` in the names of runs and sweeps: the only resolvers of Hydra's that are taken.

Names are written down and sent to trackers, so that only variables are read that hold no secret, and once.
"""

from __future__ import annotations

import os
import platform
import re
from datetime import datetime

from est_cli.common.errors import ConfigError

NAMES = ("run_name", "sweep")
"""The settings that may hold them."""

_RESOLVER = re.compile(r"\$\{(now|oc\.env):([^{}]*)\}")
_HARMLESS = re.compile(r"SLURM_\w+|USER|HOSTNAME")


def filled(key: str, text: str) -> str:
    """The text of a name with its resolvers replaced. ConfigError for a variable that is not read, or not set."""
    return _RESOLVER.sub(lambda found: _value(key, found[1], found[2]), text)


def _value(key: str, kind: str, argument: str) -> str:
    if kind == "now":
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError(f"{key}: every process would read its own clock for ${{now:...}}; write the name out")
        return datetime.now().strftime(argument)
    name, comma, default = argument.partition(",")
    if not _HARMLESS.fullmatch(name):
        raise ConfigError(f"{key}: ${{oc.env:{name}}} is not read, names are public; SLURM_*, USER and HOSTNAME are")
    found = os.environ.get(name) or (platform.node() if name == "HOSTNAME" else "")
    if not found and not comma:
        raise ConfigError(f"{key}: {name} is not set here; ${{oc.env:{name},DEFAULT}} says what else to take")
    return found or default.strip()
