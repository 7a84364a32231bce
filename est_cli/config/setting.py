"""A setting is told once, where its field stands:

    keep_last: int = setting(2, "Newest checkpoints kept.", FREE, within=at_least(2))

Its default, meaning, range and roles. From them come Hydra's defaults, the range checks, the lists of keys that may
change on resume or that W&B sees, `--help` and docs/settings.md. What binds several keys is a function beside their
fields.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from est_cli.common.errors import ConfigError


class Role(StrEnum):
    """What else a setting, or every setting of a group, is."""

    FREE = "may change when a run, or a sweep, is continued"
    TRACKED = "is sent to W&B"
    METHOD = "belongs to sampling: it means nothing to a dense run"
    BRANCH = "may differ between runs whose first steps are the same"
    NO_RESULT = "decides no result: what an evaluation finds is the same whatever it is"
    RECORDED = "is told by an evaluation's records themselves, each with its own value"
    HASHED = "names text; where the hash of that is known it counts instead"
    SETTLED = "what is left open (null, auto, a branch) is settled when a run begins, whose config.yaml holds it"


FREE, TRACKED, METHOD, BRANCH = Role.FREE, Role.TRACKED, Role.METHOD, Role.BRANCH
AUTO = "auto"
COMMIT = re.compile(r"[0-9a-f]{40}")
NO_RESULT, RECORDED, HASHED, SETTLED = Role.NO_RESULT, Role.RECORDED, Role.HASHED, Role.SETTLED


class Given(set[str]):
    """The keys that a command line decides."""

    named: frozenset[str] = frozenset()
    """Those of them that it names itself, and not by a group's option or a recipe."""


@dataclass(frozen=True)
class Range:
    """Which numbers a setting may have; None: no limit on that side."""

    low: float | None
    high: float | None
    words: str
    """Completes `it must be ...`."""
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        above = self.low is None or (value > self.low if self.low_open else value >= self.low)
        return above and (self.high is None or (value < self.high if self.high_open else value <= self.high))


def at_least(low: int, most: int | None = None, note: str = "") -> Range:
    """`at least 1`, `at least 1 and at most 99`, with a `note` behind."""
    words = f"at least {low}" + ("" if most is None else f" and at most {most:,}")
    return Range(low, most, words + note)


def above(low: float, most: float | None = None) -> Range:
    """`above 0`, `above 0 and at most 10`."""
    words = f"above {low:g}" + ("" if most is None else f" and at most {most:,.0f}")
    return Range(low, most, words, low_open=True)


def between(text: str) -> Range:
    """An interval as mathematicians write it, `[0, 1)`."""
    low, high = text[1:-1].split(",")
    return Range(float(low), float(high), f"in {text}", low_open=text[0] == "(", high_open=text[-1] == ")")


def epsilon(below: float | None = None) -> Range:
    """`at least 1.2e-38 ...`: what is smaller is 0 on some devices, or in fp32 altogether."""
    words = "at least 1.2e-38, the smallest normal number of fp32" + ("" if below is None else f", and below {below:g}")
    return Range(2.0**-126, below, words, high_open=below is not None)


def left_open(key: str, value: Any) -> bool:
    """Whether a value of a SETTLED setting leaves the choice to the start of the run; a branch or a tag does, too."""
    if key.endswith("revision"):
        return not value or not all(map(COMMIT.fullmatch, value if isinstance(value, list) else [value]))
    return value is None or value == AUTO


EVERY = at_least(0, note=" (0 means never)")
SEED = Range(0, 2**63, "at least 0 and below 2**63", high_open=True)


@dataclass(frozen=True)
class Items:
    """For a list whose entries a type cannot describe; a single value stands for a list of one."""

    fits: Callable[[Any], bool]
    """Whether a value can be an entry."""
    words: str
    """What the whole is, behind `is not`."""
    entry: str = ""
    """What an entry is, behind `is not`; empty: as the whole."""


@dataclass(frozen=True)
class Setting:
    """What is known of one key."""

    key: str
    """With its group, `train.keep_last`."""
    hint: Any
    """Its Python type."""
    default: Any
    meaning: str
    roles: frozenset[Role]
    within: Range | None
    items: Items | None
    choices: tuple[str, ...]
    """Of a word: what it may be; empty: anything."""
    brief: str = ""
    """The meaning for a line of `--help`, at most some 45 characters; empty where the meaning itself is as short."""
    others: Callable[[object], bool] | None = None
    """Says of a word that is none of `choices` whether it may be that, too: a name that other people's code brings."""

    @property
    def words(self) -> list[str]:
        """The words that it may be, those of an Enum too; empty where it is anything."""
        kinds = [kind for kind in (self.hint, *typing.get_args(self.hint)) if isinstance(kind, type)]
        return [*self.choices] or [member.value for kind in kinds if issubclass(kind, Enum) for member in kind]

    def problems(self, value: Any) -> Iterator[str]:
        """What is wrong with a value of the right type."""
        for entry in value if isinstance(value, list) else [value]:
            if self.within is not None and isinstance(entry, int | float) and entry not in self.within:
                yield f"{self.key}: {str(entry)[:40]} is out of range; it must be {self.within.words}"
                return


def setting(
    default: Any,
    meaning: str,
    *roles: Role,
    within: Range | None = None,
    items: Items | None = None,
    choices: tuple[str, ...] = (),
    others: Callable[[object], bool] | None = None,
    untracked: bool = False,
    brief: str = "",
) -> Any:
    """A field of a group's dataclass. `untracked`: W&B is not told although it is of the rest of the group."""
    metadata: dict[str, Any] = {"meaning": meaning, "roles": roles, "within": within, "items": items}
    metadata |= {"choices": choices, "others": others, "untracked": untracked, "brief": brief}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(kind: Any, *roles: Role) -> Any:
    """A field that holds a group of settings; its roles are those of every setting in it."""
    return field(default_factory=kind, metadata={"roles": roles})


_KNOWN: dict[type, dict[str, Setting]] = {}


def settings_of(schema: type) -> dict[str, Setting]:
    """Every setting of a configuration (a dataclass of dataclasses), by its key."""
    if schema not in _KNOWN:
        _KNOWN[schema] = {found.key: found for found in _settings(schema, "", frozenset())}
    return _KNOWN[schema]


def short_key(key: str, among: Collection[str]) -> str:
    """The key without its group, where no other of `among` has the same last part."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in among) == 1 else key


def keys_with(schema: type, role: Role) -> frozenset[str]:
    """The keys of a configuration that have this role."""
    return frozenset(key for key, known in settings_of(schema).items() if role in known.roles)


def refuse(problems: Iterable[str]) -> None:
    """Raise one ConfigError that names every problem, if there is one: `<key>: <what, and what would be right>`."""
    found = [*problems]
    if found:
        raise ConfigError("; also ".join(found))


def range_problems(config: Any) -> Iterator[str]:
    """`KEY: VALUE is out of range; it must be ...` for every setting of a configuration."""
    for key, known in settings_of(type(config)).items():
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        yield from known.problems(value)


def _settings(schema: type, prefix: str, inherited: frozenset[Role]) -> Iterator[Setting]:
    hints = typing.get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        hint, metadata = hints[entry.name], entry.metadata
        roles = inherited | frozenset(metadata.get("roles", ()))
        if dataclasses.is_dataclass(hint):
            yield from _settings(typing.cast(type, hint), f"{prefix}{entry.name}.", roles)
            continue
        roles -= {TRACKED} if metadata.get("untracked") else set()
        default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
        more = metadata.get("within"), metadata.get("items"), metadata.get("choices", ()), metadata.get("brief", "")
        others = metadata.get("others")
        yield Setting(prefix + entry.name, hint, default, metadata.get("meaning", ""), roles, *more, others)
