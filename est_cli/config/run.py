"""A whole run: every group of settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from est_cli.config.data import DatasetConfig
from est_cli.config.launch import LaunchConfig
from est_cli.config.method import SamplingConfig, SchedulerConfig
from est_cli.config.model import HF, ModelConfig
from est_cli.config.optim import OptimConfig
from est_cli.config.paths import PathsConfig
from est_cli.config.setting import BRANCH, FREE, METHOD, SEED, SETTLED, TRACKED, group, setting
from est_cli.config.stage import StageConfig
from est_cli.config.tracking import TrackingConfig, tracking_problems
from est_cli.config.training import TrainConfig

LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,49}")
"""What the hub's identifiers look like."""


@dataclass
class RunConfig:
    run_name: str | None = setting(
        None, "Folder below paths.outputs; null: made from model, scheduler and time.", FREE, BRANCH
    )
    sweep: str | None = setting(
        None,
        "Folder between paths.outputs and the run's own, which groups the runs of a sweep; null: none, or under -m a "
        "name made from what the command line sets.",
        FREE,
        brief="Folder for the runs of a sweep, in paths.outputs",
    )
    share_prefix: bool = setting(
        False,
        "Under -m: a run begins from the checkpoint of another one of the sweep that agrees with it up to there.",
        FREE,
        brief="Runs of a sweep begin from common checkpoints",
    )
    resume: str | None = setting(None, "A run folder to continue, or auto.", FREE, BRANCH)
    fork: str | None = setting(
        None,
        "RUN@STEP, a checkpoint of a run that a new run begins from, with that run's settings but for those given.",
        brief="RUN@STEP: the checkpoint that a new run begins from",
    )
    seed: int = setting(
        0,
        "Decides weights, order of the data, subnetworks and dropout.",
        TRACKED,
        within=SEED,
        brief="Weights, order of the data, subnetworks, dropout",
    )
    tokenizer: str = setting(
        "auto",
        "bpe: byte-level BPE trained on the corpus and cached; otherwise a folder or a hub id. auto: that of a "
        "pre-trained model that is continued, else bpe.",
        brief="bpe (trained here), a folder, a hub id, or auto",
    )
    tokenizer_revision: str | None = setting(
        None,
        "Commit, tag or branch of a tokenizer of the hub; null: the newest; config.yaml names the commit.",
        SETTLED,
        TRACKED,
        brief="Its commit, tag or branch on the hub",
    )
    license: str | None = setting(
        None,
        "Licence of the model, as its card names it: apache-2.0, cc-by-4.0, ...; null: none was chosen.",
        FREE,
        BRANCH,
        brief="Licence in the model's card, as apache-2.0",
    )
    model: ModelConfig = group(ModelConfig, TRACKED)
    dataset: DatasetConfig = group(DatasetConfig)
    scheduler: SchedulerConfig = group(SchedulerConfig, TRACKED, METHOD, BRANCH)
    stage: StageConfig = group(StageConfig, TRACKED, METHOD, BRANCH)
    sampling: SamplingConfig = group(SamplingConfig, TRACKED, METHOD)
    optim: OptimConfig = group(OptimConfig, TRACKED)
    train: TrainConfig = group(TrainConfig, TRACKED)
    tracking: TrackingConfig = group(TrackingConfig, FREE, BRANCH)
    paths: PathsConfig = group(PathsConfig, FREE, BRANCH)
    launch: LaunchConfig = group(LaunchConfig)

    @property
    def revisions(self) -> dict[str, Any]:
        """The commits of what comes from the hub."""
        return {
            "dataset": self.dataset.revision or None,
            "model": self.model.revision,
            "tokenizer": self.tokenizer_revision,
        }


def license_problem(key: str, chosen: str) -> str | None:
    """What is wrong with the name of a licence, or None."""
    if LICENSE.fullmatch(chosen):
        return None
    return f"{key}: {chosen!r} is no identifier of a licence; the hub knows apache-2.0, mit, cc-by-4.0, other, ..."


def run_problems(config: RunConfig) -> Iterator[str]:
    yield from tracking_problems(config.tracking, config.sweep)
    if config.license is not None and (problem := license_problem("license", config.license)):
        yield problem
    if config.share_prefix and config.sweep is None:
        yield "share_prefix: is for the runs of a sweep; set it under -m, or leave it false"
    if config.fork is not None and config.share_prefix:
        yield "share_prefix: a run that begins from fork=RUN@STEP begins from no other; leave it false"
    if config.tokenizer_revision is not None and tokenizer_of(config) == "bpe":
        yield "tokenizer_revision: is for a tokenizer of the hub; tokenizer=bpe is trained on the corpus"


def tokenizer_of(config: RunConfig) -> str:
    """The tokenizer's name: under `auto` that of the pre-trained model that is continued, else `bpe`."""
    if config.tokenizer != "auto":
        return config.tokenizer
    continued = config.model.family == HF and config.model.pretrained
    return str(config.model.name_or_path) if continued else "bpe"


def tokenizer_revision_of(config: RunConfig) -> str | None:
    """Its revision: that of the model whose tokenizer it is, where nothing else is said."""
    own = config.tokenizer == "auto" and config.tokenizer_revision is None
    return config.model.revision if own else config.tokenizer_revision
