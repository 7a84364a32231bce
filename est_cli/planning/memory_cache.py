"""Estimates of memory are kept: they depend on nothing but their arguments, and transformers takes seconds to import.

The file of an estimate is named by a digest of all that went into it, this package's own files among them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import est_cli
from est_cli.common.errors import StorageError
from est_cli.config import Precision
from est_cli.config.resolve import Resolved
from est_cli.config.schema import plain
from est_cli.families import FAMILIES
from est_cli.storage import disk, strict_json
from est_cli.storage.digest import fingerprint
from est_cli.storage.versions import versions
from est_cli.training.memory_estimate import Activations, MemoryEstimate

FOLDER_VARIABLE = "EST_PLAN_CACHE"
"""Names the folder of what may be deleted at any time."""


def cache_folder() -> Path:
    """As EST_PLAN_CACHE says, or else est-cli in XDG_CACHE_HOME or in ~/.cache."""
    own, everyones = os.environ.get(FOLDER_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(everyones or Path.home() / ".cache") / "est-cli"


def file_of(run: Resolved, stages: Sequence[int], precision: Precision, repeated: bool) -> Path | None:
    """Where the estimate of these stages is kept; None for a model of others, whose files may change."""
    config = run.config
    if config.model.family not in FAMILIES:
        return None
    train, packing = plain(config.train), config.dataset.packing.value
    keys = ("activation_checkpointing", "lm_loss", "attention")
    settings = [plain(config.model), plain(config.optim), {key: train[key] for key in keys}, packing]
    drawn = [(asdict(run.scheduler.stages[number - 1].rates), run.batch.of_stage(number).seq_len) for number in stages]
    digest = fingerprint(settings, asdict(run.options), drawn, precision.value, repeated, versions(), _own_files())
    try:
        return cache_folder() / "memory" / f"{digest}.json"
    except RuntimeError:  # nobody has said where this user's home is
        return None


def read(path: Path | None) -> MemoryEstimate | None:
    """What is kept there; None where nothing is, or nothing that can be read."""
    if path is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = strict_json.read_file(path)
        activations = [Activations(**one) for one in found["activations"]]
        precision, layers = Precision(found["precision"]), tuple(found["layers"])
        kept = MemoryEstimate(**{**found, "activations": activations, "precision": precision, "layers": layers})
        return kept if _are_counts(kept) else None
    return None


def _are_counts(kept: MemoryEstimate) -> bool:
    activations = [number for one in kept.activations for number in (one.fixed, one.per_sequence)]
    numbers = [kept.parameters, kept.states, kept.buffered, *kept.layers, *activations]
    return all(type(number) is int for number in numbers)


def keep(path: Path | None, estimate: MemoryEstimate) -> None:
    """Keep it there, where that can be written."""
    if path is None:
        return
    with suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace_file(path, strict_json.write_object(asdict(estimate)))


def _own_files() -> list[Any]:
    """Name, size and time of change of each: another version of est estimates anew."""
    root = Path(est_cli.__file__).parent
    return [
        (str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*.py"))
    ]
