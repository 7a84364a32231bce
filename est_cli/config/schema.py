"""From a tree of settings to typed dataclasses and back: keys, types, and messages a user understands."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from est_cli.common.errors import ConfigError
from est_cli.common.redact import has_user

C = TypeVar("C")


def typed(tree: DictConfig | dict[str, Any], schema: type[C]) -> C:
    """The tree as `schema`. Raises ConfigError for unknown keys, wrong types and missing values."""
    try:
        composed = tree if isinstance(tree, DictConfig) else OmegaConf.create(tree)
        _refuse_resolvers(OmegaConf.to_container(composed, resolve=False))
        resolved = OmegaConf.to_container(composed, resolve=True)
        _require_groups(resolved, schema)
        resolved = _as_lists(resolved, schema)
        _refuse_numbers_for_switches(leaves_of(resolved), schema)
        _refuse_users(leaves_of(resolved))
        merged = OmegaConf.merge(OmegaConf.structured(schema), resolved)
        return typing.cast(C, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise config_error(error, schema) from error


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML, enum values as plain words."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(config)))


def plain(value: Any) -> Any:
    """A dataclass tree as dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    return [plain(item) for item in value] if isinstance(value, list) else value


def leaf_types(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, type) of every setting."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from leaf_types(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hint


def unknown_key(key: str, known: Sequence[str]) -> str:
    """`key: unknown key; did you mean ...?`"""
    name, names = _name(key), {_name(other): other for other in reversed(known)}
    close = [names[name]] if name in names else []  # wrong or missing group
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    close = close or [names[other] for other in difflib.get_close_matches(name, names, n=1)]
    return f"{key}: unknown key; did you mean {close[0]!r}?" if close else f"{key}: unknown key; --help lists all keys"


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def leaves_of(tree: Any, prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= leaves_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def config_error(error: Exception, schema: type) -> ConfigError:
    """One line for what Hydra or OmegaConf found wrong."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    key = re.sub(r"\[\d+\]$", "", str(getattr(cause, "full_key", None) or ""))  # of an item: the list's key
    leaves = dict(leaf_types(schema))
    first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if not key:
        return ConfigError(f"configuration: {first_line}")
    if key not in leaves and type(cause).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return ConfigError(unknown_key(key, [*leaves, *{leaf.partition(".")[0] for leaf in leaves}]))
    if key in leaves and "Interpolation" not in type(cause).__name__:
        return ConfigError(f"{key}: {_value_in(cause)} is not {describe_type(leaves[key])}")
    return ConfigError(f"{key}: {first_line}")


def _value_in(cause: BaseException) -> str:
    told = repr(getattr(cause, "value", None))
    return "null" if told == "None" else told[:80]


def describe_type(hint: Any) -> str:
    """A type in words that a user of the command line knows."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a word", type(None): "null"}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(member.value for member in hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        kinds = {int: "integers, [1,2]", float: "numbers, [1,2]"}
        return f"a list of {kinds.get(typing.get_args(hint)[0], 'words, [a,b]')}"
    return "a value this setting can have" if hint is Any else words.get(hint, str(hint))


def _require_groups(tree: Any, schema: type) -> None:
    if "experiment" in tree:
        raise ConfigError("experiment: its file must hold settings by name, below a first line `# @package _global_`")
    for group, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint) and not isinstance(tree.get(group, {}), dict):
            raise ConfigError(f"{group}: {str(tree[group])[:80]!r} is not a group of settings, {group}: {{KEY: VALUE}}")


def _as_lists(tree: Any, schema: type) -> Any:
    """Let a single value stand for a list of one (`dataset.files=corpus.txt`, `eval.seeds=0`)."""
    for key, hint in leaf_types(schema):
        group, _, name = key.rpartition(".")
        parent = tree.get(group, {}) if group else tree
        if (hint is not Any and typing.get_origin(hint) is not list) or name not in parent:
            continue
        if hint is not Any and type(parent[name]) is typing.get_args(hint)[0]:
            parent[name] = [parent[name]]
        elif isinstance(parent[name], dict):  # OmegaConf would not tell the key, or take it
            raise ConfigError(f"{key}: {str(parent[name])[:80]} is not {describe_type(hint)}")
    return tree


def _refuse_numbers_for_switches(leaves: dict[str, Any], schema: type) -> None:
    """OmegaConf would take 3 for true."""
    for key, hint in leaf_types(schema):
        if bool in (hint, *typing.get_args(hint)) and type(leaves.get(key)) in (int, float):
            raise ConfigError(f"{key}: {leaves[key]} is not {describe_type(hint)}")


def _refuse_users(leaves: dict[str, Any]) -> None:
    """A setting is written into config.yaml, and some are sent to W&B: passwords have no place in any."""
    for key, value in leaves.items():
        if any(has_user(item) for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)):
            raise ConfigError(
                f"{key}: has a user name or password in a URL; settings are written down, so leave it out"
            )


def _refuse_resolvers(tree: Any, key: str = "configuration") -> None:
    """`${group.key}` is allowed; `${oc.env:X}` and its like would carry secrets into files and logs."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            _refuse_resolvers(value, str(name) if key == "configuration" else f"{key}.{name}")
    elif isinstance(tree, list):
        for value in tree:
            _refuse_resolvers(value, key)
    elif isinstance(tree, str) and "${" in re.sub(r"(?<!\\)\$\{[\w.]+\}", "", tree):
        raise ConfigError(f"{key}: resolvers are not allowed; write the value, or ${{group.key}} for another setting")
