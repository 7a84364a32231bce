"""The text."""

from __future__ import annotations

import math
from collections.abc import Iterator

from est_cli.config import DatasetConfig, RunConfig, Source
from est_cli.config.resolve import tokenizer_of

SMALLEST_SHARE = 0.001
"""One sample of a window of data/blocks.py."""


def dataset_problems(config: RunConfig) -> Iterator[str]:
    data = config.dataset
    if data.source in (Source.files, Source.tokens) and not data.files:
        yield f"dataset.files: is empty; dataset={data.name} needs paths, for example dataset.files=[corpus/*.txt]"
    if data.source not in (Source.files, Source.tokens):
        for key in ("files", "validation_files"):
            if getattr(data, key):
                yield f"dataset.{key}: dataset={data.name} reads no files; use dataset=text or dataset=tokens"
    if data.source is Source.hub and not data.hub_ids:
        yield "dataset.hub_ids: is empty; name at least one data set of the hub"
    if data.source is not Source.hub and data.hub_ids:
        yield f"dataset.hub_ids: dataset={data.name} does not read the hub; use dataset=hub"
    if not 0.0 < data.validation_fraction < 1.0:
        yield f"dataset.validation_fraction: {data.validation_fraction} is out of range; it must be in (0, 1)"
    if data.source is Source.tokens and tokenizer_of(config) == "bpe":
        yield "tokenizer: dataset=tokens holds ids of a tokenizer that exists; name its folder or hub id"
    if data.token_dtype not in ("uint16", "uint32"):
        yield f"dataset.token_dtype: {data.token_dtype!r} is not one of uint16, uint32"
    for entry in data.exclude:
        if not all(entry.partition("=")[:2]):
            yield f"dataset.exclude: {entry!r} is not of the form field=value"
    if data.exclude and data.source not in (Source.files, Source.hub):
        yield f"dataset.exclude: dataset={data.name} has no rows with fields; use dataset=text or dataset=hub"
    if data.weights is not None:
        yield from _weights_problems(data)
    if data.num_workers is not None and data.num_workers < 1:
        yield f"dataset.num_workers: {data.num_workers} is out of range; it must be at least 1"


def _weights_problems(data: DatasetConfig) -> Iterator[str]:
    """Weights are for sources that are named one by one."""
    weights = data.weights or []
    key = {Source.files: "files", Source.hub: "hub_ids"}.get(data.source)
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        yield f"dataset.weights: {weights} is out of range; each must be a positive number"
    elif key is None:
        yield f"dataset.weights: dataset={data.name} is a single source; use dataset=text or dataset=hub"
    elif len(weights) != len(getattr(data, key)):
        yield f"dataset.weights: has {len(weights)} entries, dataset.{key} has {len(getattr(data, key))}; one for each"
    elif min(weights) < SMALLEST_SHARE * sum(weights):
        yield f"dataset.weights: {min(weights):g} is less than {SMALLEST_SHARE:g} of all; leave that source out"
