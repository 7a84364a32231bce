"""What a shell offers behind a half-typed word of our commands.

Hydra's own scripts (`est-train -sc install=bash`) call `est-train -sc query=bash` at every press of the key, with the
line in COMP_LINE and COMP_POINT. Hydra's answer composes a configuration; this one reads names only, in a fraction of
the time.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from est_cli.cli.help import topics
from est_cli.config.groups import groups_of
from est_cli.config.setting import Setting, settings_of

OPTIONS = ("--cfg", "--config-dir", "--help", "--info", "--multirun", "--resolve", "--shell-completion", "--version")


def is_query(argv: Sequence[str]) -> bool:
    """Whether a shell asks."""
    return len(argv) == 3 and argv[1] in ("-sc", "--shell-completion") and argv[2].startswith("query=")


def offered(schema: type, environment: Mapping[str, str]) -> list[str]:
    """Words that can stand where the cursor is, the settings of `schema` being those of the command."""
    line = environment.get("COMP_LINE", "")
    typed = line[: int(environment.get("COMP_POINT") or len(line))].split(" ")
    word = typed[-1]
    if len(typed) > 1 and typed[-2] in ("--config-dir", "-cd"):
        return _files("", word)
    key, equals, value = word.partition("=")
    groups, known = groups_of(schema, None), settings_of(schema)
    if len(typed) > 1 and typed[-2] in ("--help", "-h"):
        return [topic for topic in topics(schema, groups) if topic.startswith(word)]
    if not equals:
        names = [*OPTIONS, *(f"{name}=" for name in (*groups, *known))]
        return sorted({_to_the_dot(name, word) for name in names if name.startswith(word)})
    head, comma, last = value.rpartition(",")
    done = f"{key}={head}{comma}"
    if key in groups:
        return [f"{done}{option}" for option in groups[key] if option.startswith(last)]
    if key not in known:
        return []
    choices = _choices(known[key])
    return [f"{done}{choice}" for choice in choices if choice.startswith(last)] or _files(f"{key}=", value)


def _to_the_dot(name: str, word: str) -> str:
    """`stage.` for stage.t1, until it is typed."""
    end = name.find(".", len(word))
    return name if end < 0 else name[: end + 1]


def _choices(known: Setting) -> Iterable[str]:
    """What a setting may be where that is a list of words; empty where it is anything."""
    kinds = (known.hint, *get_args(known.hint))
    words = known.words or (["true", "false"] if bool in kinds else [])
    return [*words, *(["null"] if words and type(None) in kinds else [])]


def _files(before: str, start: str) -> list[str]:
    """Files and folders whose path begins so, folders with a slash behind."""
    found = glob.glob(glob.escape(start) + "*")
    return sorted(f"{before}{path}{'/' if os.path.isdir(path) else ''}" for path in found)
