"""Runs of a tiny GPT-2 over a few steps, every one of which is kept: what trains on from a checkpoint is compared with
them."""

from __future__ import annotations

from pathlib import Path

from est_cli.config import (
    DatasetConfig,
    ModelConfig,
    RunConfig,
    SchedulerConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.training import train
from est_cli.training.build import build
from est_cli.training.start import Start
from tests.lab.lab import write_corpus

SEQ_LEN = 16
DECAY = 4
"""Steps in which the learning rate falls to 0."""


def trained(folder: Path, name: str, stage: StageConfig | None = None, max_steps: int = 16) -> Path:
    """The folder, in `outputs` here, of a run with the text in `folder`; `stage`: of n_stage, else dense."""
    if not (folder / "corpus.jsonl").exists():
        write_corpus(folder / "corpus.jsonl")
    config = RunConfig(
        run_name=name,
        seed=3,
        model=ModelConfig("gpt2", "gpt2", 300, 16, 2, 4, max_positions=SEQ_LEN),
        dataset=DatasetConfig("text", Source.files, [str(folder / "corpus.jsonl")], num_workers=1),
        scheduler=SchedulerConfig("dense" if stage is None else "n_stage"),
        stage=stage or StageConfig(),
        train=TrainConfig(
            max_steps=max_steps,
            seq_len=SEQ_LEN,
            tokens_per_step=2 * SEQ_LEN,
            micro_batch=1,
            eval_every=0,
            checkpoint_every=1,
            keep_last=20,
        ),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    config.dataset.validation_fraction = 0.3
    config.optim.warmup, config.optim.decay, config.optim.lr = 0, DECAY, 0.01
    config.optim.min_lr_ratio = 0.0
    check(config)
    with build(Start.of(config, None)) as run:
        train.train(run)
        return run.dir.root
