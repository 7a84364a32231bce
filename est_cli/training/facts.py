"""What trackers are told of a run beside its settings: what it reads, what it trains, on what, and with which versions.

Nothing of it says where something lies on this machine.
"""

from __future__ import annotations

from typing import Any

from est_cli.common.plugins import packages_in_use
from est_cli.common.rank import Rank
from est_cli.config import RunConfig
from est_cli.config.data import NO_REVISION
from est_cli.config.run import tokenizer_of
from est_cli.distributed.hardware import hardware
from est_cli.est import FlopsLedger
from est_cli.storage.versions import LIBRARIES, git_commit, git_dirty, versions_of
from est_cli.training.parts import Parts
from est_cli.training.run import RunState

TOLD = (*LIBRARIES, "datasets", "wandb")
"""Packages whose versions are told."""


def facts_of(config: RunConfig, parts: Parts, state: RunState, planned: FlopsLedger, rank: Rank) -> dict[str, Any]:
    """All of it, as JSON."""
    commit = {"git_commit": git_commit(), "git_dirty": git_dirty()} if config.tracking.commit else {}
    return {
        "run_name": config.run_name,
        "sweep": config.sweep,
        "steps": parts.run.scheduler.max_steps,
        "tokens": parts.run.batch.tokens_before(parts.run.max_steps),
        "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
        "vocabulary": parts.spec.vocab_size,
        "training_tokens": len(parts.corpus.train),
        "validation_tokens": len(parts.corpus.validation),
        "planned": {
            "flops": planned.used.total,
            "flops_dense": planned.dense.total,
            "flops_saved_pct_blocks": planned.saved_pct("blocks"),
            "flops_saved_pct_total": planned.saved_pct("total"),
        },
        "data_hash": state.data_hash,
        "tokenizer_hash": state.tokenizer_hash,
        "hub": _hub_ids(config),
        "revisions": config.revisions,
        "hardware": hardware(parts.accelerator.device, rank.world_size),
        "processes": rank.world_size,
        "versions": dict(versions_of(TOLD)) | packages_in_use(),
        **commit,
    }


def _hub_ids(config: RunConfig) -> dict[str, Any]:
    """Names on the hub: of what has a commit there. Folders and files have none, and are not named."""
    revisions = config.revisions
    data = zip(config.dataset.hub_ids, revisions["dataset"] or [], strict=False)
    return {
        "dataset": [name for name, commit in data if commit != NO_REVISION] or None,
        "model": config.model.name_or_path if revisions["model"] else None,
        "tokenizer": tokenizer_of(config) if revisions["tokenizer"] else None,
    }
