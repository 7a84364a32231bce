"""`tracking.*`: where a run is followed."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from est_cli.common.errors import install_hint
from est_cli.config.setting import above, setting

RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)


class WandbMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


class Also(StrEnum):
    """Other trackers than W&B."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    trackio = "trackio"


@dataclass
class TrackingConfig:
    also: list[Also] = setting(
        [],
        "Other trackers that mirror metrics.jsonl: tensorboard, mlflow, trackio (docs/trackers.md).",
        brief="tensorboard, mlflow, trackio: [a,b]",
    )
    wandb: WandbMode = setting(
        WandbMode.auto,
        "W&B mirrors metrics.jsonl; auto: as WANDB_MODE says, else online where a key is configured, else offline.",
    )
    project: str | None = setting(None, "The W&B project; null: WANDB_PROJECT, else est.")
    entity: str | None = setting(None, "The W&B user or team; null: WANDB_ENTITY, else the key's own.")
    name: str | None = setting(None, "The run's name in W&B; null: WANDB_NAME, else run_name.")
    tags: list[str] = setting([], "W&B tags of the run; []: those of WANDB_TAGS, with commas between them.")
    group: str | None = setting(None, "The group in W&B; null: WANDB_RUN_GROUP, else the sweep, if it is of one.")
    job_type: str | None = setting(None, "The job type in W&B; null: WANDB_JOB_TYPE, else train, eval or analyze.")
    notes: str | None = setting(None, "Notes to the run in W&B; null: WANDB_NOTES, else none.")
    run_id: str | None = setting(
        None, "The run's id in W&B; null: WANDB_RUN_ID of a run by itself, else the checkpoint's, else a new one."
    )
    dir: str | None = setting(None, "Where W&B keeps its files, in DIR/wandb; null: WANDB_DIR, else the run's folder.")
    timeout_s: float = setting(
        90.0,
        "Seconds in which W&B's server must open the run, while training goes on, before it is recorded offline (and "
        "sent later, should the server answer); and at the end for the rows that are still on their way.",
        within=above(0, 86400),
        brief="Seconds in which W&B's server must answer",
    )
    system: bool = setting(
        True,
        "W&B gets use, memory and power of the GPUs, and CPU, memory, disk and network.",
        brief="W&B gets the use of GPUs, CPU, memory, disk",
    )
    console: bool = setting(
        True,
        "W&B gets what the run tells on the terminal, without paths, users and secrets.",
        brief="W&B gets what the terminal shows, redacted",
    )
    commit: bool = setting(
        True, "W&B gets the commit of est, and whether its checkout has changes.", brief="W&B gets the commit of est"
    )
    requirements: bool = setting(
        True, "W&B gets names and versions of the installed packages.", brief="W&B gets the installed packages"
    )
    alerts: bool = setting(
        True,
        "W&B alerts of changes of stage, of steps that were not finite, and of what looks wrong at the end.",
        brief="W&B alerts of stages and what looks wrong",
    )
    log_model: bool = setting(False, "W&B gets the final model as an artifact.")


@dataclass
class TrackingIfAsked(TrackingConfig):
    """For a command that is done in minutes, and whose results are a file."""

    wandb: WandbMode = setting(
        WandbMode.off,
        "W&B gets the numbers and pictures of the result; auto and the others as in est-train.",
        brief="W&B gets the numbers and pictures",
    )


def tracking_problems(config: TrackingConfig, sweep: str | None, trains: bool = True) -> Iterator[str]:
    """What of `tracking` cannot be; `sweep`: the one that the run belongs to, `trains`: whether it makes a model."""
    if config.run_id is not None and not RUN_ID.fullmatch(config.run_id):
        yield f"tracking.run_id: {config.run_id[:80]!r} is no id; use up to 64 letters, digits, _ and -"
    if config.run_id is not None and sweep is not None:
        yield "tracking.run_id: is of one run, and a sweep has several; leave it null"
    if config.log_model and not trains:
        yield "tracking.log_model: only est-train makes a model; leave it false"
    if config.also and not trains:
        yield "tracking.also: is for a training; est-eval tells W&B, and writes results.json; leave it empty"
    for name in config.also:
        if name is not Also.tensorboard and importlib.util.find_spec(name) is None:
            yield f"tracking.also: {name} is not installed; {install_hint(name)}"
