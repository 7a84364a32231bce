"""The configuration that a run was started with, read back from its folder, whose form is not trusted (SECURITY.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.config.bounded_yaml import SAFE_LOADER, bounded_text
from est_cli.config.run import RunConfig
from est_cli.config.schedulers import SCHEDULERS, is_outside, scheduler_named
from est_cli.config.schema import typed
from est_cli.storage.run_dir import RunDir

BEFORE: dict[str, Any] = {
    "dataset.cut": "lines",
    "dataset.articles": False,
    "dataset.packing": "across",
    "sampling.multiple_of": 1,
}
"""What a run did that was begun before est had these keys. It goes on that way, whatever is a new run's default."""


def stored_config(folder: Path) -> RunConfig:
    """The configuration a run was started with, from its config.yaml: plain data, no links between its parts."""
    tree = _stored_tree(folder)
    for key in _missing(tree):
        group, _, name = key.partition(".")
        if group == "sampling" and name not in _sampling_read(tree):
            continue  # it has no meaning there, and its default is what says so
        tree[group] = {**(tree.get(group) or {}), name: BEFORE[key]}
    try:
        return typed(tree, RunConfig)
    except ConfigError as error:
        raise CheckpointError(f"{RunDir(folder).config}: {error}{_brought_by(tree)}") from error


def _sampling_read(tree: dict[str, Any]) -> tuple[str, ...]:
    """Keys of sampling.* that the scheduler of a stored configuration reads."""
    scheduler = tree.get("scheduler")
    name = scheduler.get("name") if isinstance(scheduler, dict) else None
    return scheduler_named(name).sampling if name in SCHEDULERS else ()


def _brought_by(tree: dict[str, Any]) -> str:
    """What else is to be said of a stored configuration whose scheduler nobody has here."""
    scheduler = tree.get("scheduler")
    name, package = (scheduler.get(key) if isinstance(scheduler, dict) else None for key in ("name", "package"))
    missing = isinstance(package, str) and name not in SCHEDULERS and not is_outside(name)
    return f"; the run began with that of {package}: pip install it" if missing else ""


def keys_newer_than(folder: Path) -> frozenset[str]:
    """The keys of BEFORE that est did not have when the run in `folder` began: no recipe decides them."""
    return frozenset(_missing(_stored_tree(folder)))


def _missing(tree: dict[str, Any]) -> list[str]:
    """The keys of BEFORE that a stored configuration does not have."""
    groups = {key: tree.get(key.partition(".")[0]) or {} for key in BEFORE}
    return [key for key, group in groups.items() if isinstance(group, dict) and key.partition(".")[2] not in group]


def _stored_tree(folder: Path) -> dict[str, Any]:
    path = RunDir(folder).config
    try:
        tree = yaml.load(bounded_text(path, aliases=False), Loader=SAFE_LOADER)  # noqa: S506 the safe one in C
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: holds no settings")
    return tree
