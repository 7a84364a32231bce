"""A whole run: every group, and which keys may change when it is resumed."""

from __future__ import annotations

from dataclasses import dataclass, field

from est_cli.config.data import DatasetConfig
from est_cli.config.launch import LaunchConfig
from est_cli.config.method import SamplingConfig, SchedulerConfig, StageConfig
from est_cli.config.model import ModelConfig
from est_cli.config.optim import OptimConfig
from est_cli.config.tracking import TrackingConfig
from est_cli.config.training import TrainConfig


@dataclass
class RunConfig:
    run_name: str | None = None
    """Folder below outputs/; None: made from model, scheduler and time."""
    sweep: str | None = None
    """Folder between outputs/ and the run's own, which groups the runs of a sweep; None: none, or under -m a name made
    from what the command line sets."""
    share_prefix: bool = False
    """Under -m: a run begins from the checkpoint of another one of the sweep that agrees with it up to there."""
    resume: str | None = None
    """A run folder to continue, or `auto`."""
    seed: int = 0
    tokenizer: str = "auto"
    """`bpe`: byte-level BPE trained on the corpus and cached; otherwise a folder or a hub id. `auto`: that of a
    pre-trained model that is continued, else bpe."""
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


FREE_KEYS = (
    "run_name", "sweep", "share_prefix", "resume", "train.micro_batch", "train.compile",
    "train.activation_checkpointing", "train.attention",
    "train.lm_loss", "train.lm_chunk", "train.pad_vocab_to", "train.profile_step", "train.profile_steps",
    "train.log_every", "train.eval_every", "train.eval_tokens", "train.checkpoint_every",
    "train.async_checkpoints", "train.keep_last", "train.keep_every", "train.sample_every", "train.sample_prompt",
    "train.sample_tokens", "tracking", "launch",
    "dataset.num_workers",
)  # fmt: skip
"""Keys (or whole groups) that may change when a run is resumed; every other key defines the run and is frozen."""
