"""The text."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Source(StrEnum):
    """Where the text comes from."""

    stdlib = "stdlib"
    files = "files"
    tokens = "tokens"
    hub = "hub"


@dataclass
class DatasetConfig:
    name: str = "stdlib"
    source: Source = Source.stdlib
    files: list[str] = field(default_factory=list)
    """source=files: paths or globs of .txt, .jsonl, .parquet (also .gz, .xz, .zst); source=tokens: a .bin file."""
    validation_files: list[str] = field(default_factory=list)
    """Held-out files of the same kind; none: `validation_fraction` of the documents is held out."""
    hub_ids: list[str] = field(default_factory=list)
    """source=hub: data sets of the hub or local folders of that layout; several are concatenated, or mixed."""
    weights: list[float] | None = None
    """One for each entry of `files` or `hub_ids`: these are mixed in this proportion, sample by sample, and a small one
    is read several times; None: one after the other, every block once per epoch."""
    hub_config: str | None = None
    hub_split: str = "train"
    hub_validation_split: str | None = None
    """source=hub: the split to validate on; None: `validation_fraction` of the documents."""
    text_fields: list[str] = field(default_factory=lambda: ["text", "content"])
    """jsonl, parquet, hub: the first of these fields that a data set has is its text."""
    exclude: list[str] = field(default_factory=list)
    """jsonl, parquet, hub: rows with such a value are left out, for example meta.language=de (dots: nested fields)."""
    validation_fraction: float = 0.02
    token_dtype: str = "uint16"
    """source=tokens: how the ids are stored, uint16 or uint32 (little-endian)."""
    num_workers: int | None = None
    """Processes that tokenise (threads, where there is little to do); None: one per CPU core."""
