"""YAML that may be anybody's, looked through before it is loaded: aliases of a few hundred bytes can stand for GB."""

from __future__ import annotations

from pathlib import Path

import yaml

from est_cli.storage import strict_json

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_VALUES = 100_000
"""Of one file, each counted as often as an alias stands for it."""

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def bounded_text(path: Path, aliases: bool) -> str:
    """The text of a YAML file. ValueError, yaml.YAMLError or OSError where it is too large, nested or odd to be loaded.

    `aliases`: whether it may have some.
    """
    text = strict_json.read_bytes(path, MAX_BYTES).decode("utf-8")
    anchors: dict[str, int] = {}
    counts: list[tuple[str | None, int]] = [(None, 0)]
    """For each value that is open here: its anchor, and of how many values it is so far."""
    for event in yaml.parse(text, Loader=SAFE_LOADER):
        name = getattr(event, "anchor", None)
        if name is not None and not aliases:
            raise ValueError("holds YAML aliases; a stored configuration has none")
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append((name, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            _count(*counts.pop(), anchors, counts)
        elif isinstance(event, yaml.AliasEvent):
            _count(None, anchors.get(name or "", 0), anchors, counts)
        elif isinstance(event, yaml.ScalarEvent):
            _count(name, 1, anchors, counts)
        if len(counts) > MAX_DEPTH:
            raise ValueError(f"is nested too deeply, more than {MAX_DEPTH} levels")
    return text


def _count(name: str | None, values: int, anchors: dict[str, int], counts: list[tuple[str | None, int]]) -> None:
    """A value of so many has ended: it is part of the one that is open around it."""
    if name is not None:
        anchors[name] = values
    around, before = counts[-1]
    counts[-1] = around, before + values
    if before + values > MAX_VALUES:
        raise ValueError(f"stands for more than {MAX_VALUES:,} values")
