"""Families and schedulers that are not est's own: registered by a program, or brought by an installed package.

A package brings one by an entry point. That is looked for only when a name is asked for that est does not have, and
only the entry point of this name is loaded: no configuration, checkpoint or model folder can name a module.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from est_cli.common.errors import reason

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

T = TypeVar("T")

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_in_use: dict[str, str] = {}


class Origin(NamedTuple):
    """The package that brings an entry."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


def packages_in_use() -> dict[str, str]:
    """Name -> version of the packages of which something was loaded in this process."""
    return dict(_in_use)


class Registry(Generic[T]):
    """The entries of one kind that are not est's own, by name. A name of est's own is never anybody else's."""

    def __init__(self, what: str, group: str, kind: type[T], ours: tuple[str, ...]) -> None:
        self.what, self.group = what, group
        self._kind, self._ours = kind, ours
        self._loaded: dict[str, tuple[T, Origin | None]] = {}
        self._passed_over: set[EntryPoint] = set()

    def register(self, name: str, entry: T) -> None:
        """Make `entry` known under `name` in this process, in the place of what was registered under it before.

        ValueError for a name of est's own, or that is none.
        """
        if name in self._ours:
            raise ValueError(f"{self.what}: {name!r} is one of est's own; choose another name")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.what}: {name!r} is no name; use lower-case letters, digits and _")
        self._loaded[name] = self._checked(name, entry, "register_" + self.what), None

    def knows(self, name: object) -> bool:
        """Whether somebody else than est has an entry of this name. Nothing is loaded."""
        return isinstance(name, str) and name not in self._ours and (name in self._loaded or bool(self._offers(name)))

    def get(self, name: str) -> T:
        """The entry that knows() has. ValueError where it cannot be loaded, or two packages bring one."""
        if name not in self._loaded:
            self._loaded[name] = self._load(self._only_offer(name))
        return self._loaded[name][0]

    def origin(self, name: object) -> Origin | None:
        """The package that brings it; None where none does: est's own, or registered by a program."""
        if not isinstance(name, str) or not self.knows(name):
            return None
        return self._loaded[name][1] if name in self._loaded else _origin(self._only_offer(name))

    def names(self) -> list[str]:
        """All names that knows() has."""
        found = {offer.name for offer in _entry_points(self.group) if _NAME.fullmatch(offer.name)}
        return sorted(({*self._loaded} | found) - {*self._ours})

    def _offers(self, name: str) -> list[EntryPoint]:
        offers = _entry_points(self.group)
        for offer in offers:
            if offer.name in self._ours and offer not in self._passed_over:
                self._passed_over.add(offer)
                told = "%s: %s brings one named %r, as est has itself; it is passed over"
                log.warning(told, self.what, _origin(offer), offer.name)
        return [offer for offer in offers if offer.name == name] if _NAME.fullmatch(name) else []

    def _only_offer(self, name: str) -> EntryPoint:
        offers = self._offers(name)
        if len(offers) != 1:
            brought = " and ".join(str(_origin(offer)) for offer in offers)
            raise ValueError(f"{name!r} is brought by {brought or 'no package'}; uninstall all but one")
        return offers[0]

    def _load(self, offer: EntryPoint) -> tuple[T, Origin]:
        origin = _origin(offer)
        try:
            entry = offer.load()
        except (Exception, SystemExit) as error:  # whatever the package's own code raises
            why = f"{type(error).__name__}: {reason(error)}"
            raise ValueError(f"{offer.name!r} of the package {origin} cannot be loaded: {why}") from error
        _in_use[origin.package] = origin.version
        return self._checked(offer.name, entry, f"the package {origin}"), origin

    def _checked(self, name: str, entry: object, where: str) -> T:
        if not isinstance(entry, self._kind):
            kind = self._kind.__name__
            raise ValueError(f"{name!r} of {where} is of type {type(entry).__name__}; it must be a {kind}")
        return entry


def _entry_points(group: str) -> EntryPoints:
    from importlib.metadata import EntryPoints, entry_points  # not for a command that has no need of it

    try:
        return entry_points(group=group)
    except Exception as error:  # of a damaged package, be it any
        _warn_of_damage(reason(error))
        return EntryPoints()


@cache
def _warn_of_damage(why: str) -> None:
    told = "the entry points of an installed package cannot be read (%s); none is looked for: pip check names it"
    log.warning(told, why)


def _origin(offer: EntryPoint) -> Origin:
    assert offer.dist is not None, "entry_points() says whose each is"
    return Origin(offer.dist.name or "unnamed", offer.dist.version or "unknown")  # None where the metadata is damaged


def package_problem(key: str, recorded: str | None, origin: Origin | None) -> str | None:
    """What is wrong where a configuration says in `key` which package brings a name, and `origin` brings it here."""
    if recorded is None or (origin is not None and recorded.partition("==")[0] == origin.package):
        return None
    return f"{key}: the run began with {recorded}, here it is of {origin or 'no package'}; install that, or begin anew"
