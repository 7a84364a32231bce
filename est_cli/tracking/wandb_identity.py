"""What a run is called in W&B and where it belongs there: a setting of ours, else W&B's variable, else our own."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from est_cli.config import TrackingConfig, WandbMode
from est_cli.config.tracking import RUN_ID

PROJECT = "est"


@dataclass(frozen=True)
class Identity:
    """As `wandb.init` takes it."""

    id: str
    name: str
    project: str
    entity: str | None
    tags: list[str]
    group: str | None
    job_type: str
    notes: str | None
    dir: str


@dataclass(frozen=True)
class Job:
    """What est knows of it."""

    run_name: str
    run_id: str
    run_dir: Path
    sweep: str | None
    job_type: str
    """`train`, `eval` or `analyze`."""
    group: str | None = None
    """Of an evaluation, that of the run whose model it is; else the sweep."""


def identity_of(tracking: TrackingConfig, job: Job, environ: Mapping[str, str]) -> Identity:
    """The names of `job`; a run of one of our sweeps has its own whatever WANDB_NAME says."""
    own_name = None if is_swept(job.sweep, environ) else environ.get("WANDB_NAME")
    told_tags = [tag.strip() for tag in environ.get("WANDB_TAGS", "").split(",")]
    return Identity(
        id=job.run_id,
        name=tracking.name or own_name or job.run_name,
        project=tracking.project or environ.get("WANDB_PROJECT") or PROJECT,
        entity=tracking.entity,
        tags=tracking.tags or [tag for tag in told_tags if tag],
        group=tracking.group or environ.get("WANDB_RUN_GROUP") or job.group or job.sweep,
        job_type=tracking.job_type or environ.get("WANDB_JOB_TYPE") or job.job_type,
        notes=tracking.notes or environ.get("WANDB_NOTES") or None,
        dir=tracking.dir or environ.get("WANDB_DIR") or str(job.run_dir),
    )


def new_run_id() -> str:
    """A fresh W&B run id, to be kept in the checkpoint and given again on resume."""
    return secrets.token_hex(4)


def chosen_run_id(tracking: TrackingConfig, sweep: str | None, environ: Mapping[str, str]) -> str | None:
    """The id that the user or W&B's agent has chosen for the run; None: the checkpoint's, or a new one."""
    told = None if is_swept(sweep, environ) else environ.get("WANDB_RUN_ID")
    return tracking.run_id or (told if told and RUN_ID.fullmatch(told) else None)


def is_swept(sweep: str | None, environ: Mapping[str, str]) -> bool:
    """Whether the run is one of several of a sweep of ours: what names one run cannot be meant for it.

    W&B's agent (WANDB_SWEEP_ID) names each of its runs itself.
    """
    return sweep is not None and "WANDB_SWEEP_ID" not in environ


def requested_mode(setting: WandbMode, environment: str | None) -> WandbMode:
    """`setting`, or where it is `auto` what WANDB_MODE (`environment`) says; `auto` where that says nothing."""
    if setting is not WandbMode.auto:
        return setting
    modes = {"run": WandbMode.online, "dryrun": WandbMode.offline, "disabled": WandbMode.off}
    modes |= {"online": WandbMode.online, "offline": WandbMode.offline}
    return modes.get((environment or "").strip().lower(), WandbMode.auto)
