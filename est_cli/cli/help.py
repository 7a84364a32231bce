"""What `--help` says of the settings, from what their fields say: a line each, or of one group everything."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from est_cli.common.errors import EXIT_CODES, ConfigError
from est_cli.config.schedulers import SCHEDULERS, scheduler_named
from est_cli.config.schema import describe, leaves_of, plain
from est_cli.config.setting import FREE, Setting, settings_of

GENERAL = "general"
"""The topic of the settings that are in no group."""
SETTINGS = "Settings by group, with the values that this command line would use:"
NARROWEST, WIDEST = 60, 120
"""Characters of a line, whatever the terminal has."""
LONGEST_KEY = 32
"""What stands before the words of a line is as wide as that at most, unless one key is wider."""


def topics(schema: type, groups: Collection[str]) -> list[str]:
    """What `--help TOPIC` takes beside a key: the settings' groups, and those that hold recipes only."""
    own = dict.fromkeys(key.rpartition(".")[0] or GENERAL for key in settings_of(schema))
    return [GENERAL, *(group for group in groups if group not in own), *(group for group in own if group != GENERAL)]


def help_page(name: str, usage: str, config: Any, groups: Mapping[str, Sequence[str]], width: int = 80) -> str:
    """The page of the command `name`: `usage` with its examples, then by group a line for each key of `config`."""
    width = min(max(width, NARROWEST), WIDEST)
    lines = [usage.strip(), "", SETTINGS]
    for topic in topics(type(config), groups):
        lines += ["", *_heading(topic, groups, width), *_briefly(topic, config, width)]
    more = f"{name} --help GROUP tells all of one group's settings, {name} --help KEY all of one."
    return "\n".join([*lines, "", *_wrapped(f"Exit codes: {', '.join(EXIT_CODES)}.", width), *_wrapped(more, width)])


def topic_page(asked: Sequence[str], config: Any, groups: Mapping[str, Sequence[str]], width: int = 80) -> str:
    """All that is known of these groups or keys of `config`. Raises ConfigError for one that there is not."""
    width, known, values = min(max(width, NARROWEST), WIDEST), settings_of(type(config)), _values(config)
    lines: list[str] = []
    for topic in asked:
        if topic not in known and topic not in topics(type(config), groups):
            raise ConfigError(_no_topic(topic, type(config), groups))
        keys = [topic] if topic in known else _keys(topic, type(config))
        lines += [] if topic in known else [*_heading(topic, groups, width), ""]
        lines += _schedulers(width) if topic == "scheduler" else []
        for key in keys:
            lines += [f"  {key}={written(values[key])}", *_in_full(known[key], values[key], width), ""]
    return "\n".join(lines).rstrip()


def _no_topic(topic: str, schema: type, groups: Collection[str]) -> str:
    found = topics(schema, groups)
    names = {key.rpartition(".")[2]: key for key in reversed(settings_of(schema))} | {name: name for name in found}
    close = [names[name] for name in difflib.get_close_matches(topic, names, n=1)]
    close = close or difflib.get_close_matches(topic, [*settings_of(schema)], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"--help: no group or key {topic!r}; {hint}the groups are {', '.join(found)}"


def _keys(topic: str, schema: type) -> list[str]:
    """The keys of a group, those first that a command has beside another one's."""
    others = {key for base in schema.__bases__ if is_dataclass(base) for key in settings_of(base)}
    keys = [key for key in settings_of(schema) if (key.rpartition(".")[0] or GENERAL) == topic]
    return sorted(keys, key=lambda key: key in others)


def _values(config: Any) -> dict[str, Any]:
    return leaves_of(plain(config))


def _heading(topic: str, groups: Mapping[str, Sequence[str]], width: int) -> list[str]:
    options = [option for option in groups.get(topic, ()) if option != "default"]
    return _wrapped(f"{topic} ({topic}=OPTION): {', '.join(options)}" if options else topic, width, "    ")


def _briefly(topic: str, config: Any, width: int) -> Iterator[str]:
    known, values = settings_of(type(config)), _values(config)
    typed = {key: f"  {key}={written(values[key])}" for key in _keys(topic, type(config))}
    column = max((len(text) for text in typed.values() if len(text) <= LONGEST_KEY), default=LONGEST_KEY) + 2
    for key, text in typed.items():
        text = text if len(text) <= width // 2 else f"{text[: width // 2 - 3]}..."
        yield f"{text:<{column - 2}}  {_in_brief(known[key], width - max(len(text) + 2, column))}"


def _in_brief(known: Setting, room: int) -> str:
    """What a setting means in the characters there are, with the range or the choices where these fit too."""
    allowed = f" ({_allowed(known)})" if _allowed(known) else ""
    meaning = known.meaning.rstrip(".")
    clause = re.split(r"; |(?<!\.)\. ", meaning)[0]
    options = [(known.brief, "")] if known.brief else [(meaning, ""), (clause, " ...")]
    for text, more in options:
        for shown in (text + allowed + more, text + more):
            if len(shown) <= room:
                return shown
    return _cut(known.brief or meaning, room)


def _cut(text: str, room: int) -> str:
    """The whole words that fit, and that there are more."""
    return textwrap.shorten(text, room, placeholder=" ...")


def _allowed(known: Setting) -> str:
    """The range or the choices; empty where the type says it all."""
    if known.within is not None:
        return known.within.words.replace(" (0 means never)", ", 0: never")
    return ", ".join(known.words)


def _in_full(known: Setting, value: Any, width: int) -> list[str]:
    within = "" if known.within is None else f"; {known.within.words}"
    free = " May change when a run is resumed, or a sweep continued." if FREE in known.roles else ""
    usual = plain(known.default)
    default = "" if usual in (None, value) else f" Default: {written(usual)}."
    about = f"{describe(known)}{within}.{default}{free}"
    about = about[0].upper() + about[1:]
    return [*_wrapped(known.meaning, width, "      ", "      "), *_wrapped(about, width, "      ", "      ")]


def _schedulers(width: int) -> Iterator[str]:
    for name in SCHEDULERS:
        found = scheduler_named(name)
        reads = ", ".join(f"stage.{key}" for key in (*found.reads, *found.optional)) or "nothing of stage"
        yield from _wrapped(f"{name}: {found.meaning}. Reads {reads}.", width, "      ", "  ")
    yield ""


def _wrapped(text: str, width: int, indent: str = "", first: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def written(value: Any) -> str:
    """A value as it is typed on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return f"'{value}'" if isinstance(value, str) and (value != value.strip() or not value) else str(value)
