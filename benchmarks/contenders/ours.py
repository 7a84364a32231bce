"""est-train's own step: a dense run, or a stage of a three_stage run. All that knows the product's inside is here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from contenders import protocol
from contenders.protocol import Job
from est_cli.config import (
    DatasetConfig,
    LrSchedule,
    ModelConfig,
    OptimConfig,
    Precision,
    RunConfig,
    SchedulerConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.training.build import build
from est_cli.training.start import Start
from est_cli.training.step import train_step

STAGE_STEPS = 1_000_000
"""Steps of each stage: more than any benchmark takes."""


def main() -> None:
    job, replies = protocol.connect()
    home = Path(tempfile.mkdtemp(prefix="ours-", dir=job.folder))
    os.chdir(home)  # the run goes to outputs/ there
    _write_tokenizer(home / "tokenizer")
    config = _config(job)
    with build(Start(check(config), None)) as run:
        steps = count(max(0, job.stage - 1) * STAGE_STEPS)

        def step() -> Callable[[], float]:
            result = train_step(run, next(steps))
            return lambda: result.read().loss

        protocol.serve(job, replies, step)


def _config(job: Job) -> RunConfig:
    llama = job.family == "llama"
    return RunConfig(
        run_name="bench",
        seed=job.seed,
        tokenizer="tokenizer",
        model=ModelConfig(
            name=job.family,
            family=job.family,
            vocab_size=job.vocab_size,
            hidden_size=job.hidden_size,
            num_layers=job.num_layers,
            num_heads=job.num_heads,
            num_kv_heads=job.num_kv_heads if llama else None,
            mlp_size=job.mlp_size if llama else None,
            max_positions=job.seq_len,
        ),
        dataset=DatasetConfig(
            "tokens", Source.tokens, [f"{job.folder}/train.bin"], validation_files=[f"{job.folder}/val.bin"]
        ),
        scheduler=SchedulerConfig("three_stage" if job.stage else "dense"),
        stage=StageConfig(STAGE_STEPS, 2 * STAGE_STEPS, 0.5, 0.5, 0.5) if job.stage else StageConfig(),
        optim=OptimConfig(lr=protocol.LR, schedule=LrSchedule.constant, warmup=0),
        train=TrainConfig(
            max_steps=3 * STAGE_STEPS,
            seq_len=job.seq_len,
            tokens_per_step=job.tokens,
            micro_batch=job.micro_batch,
            precision=Precision(job.precision),
        ),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )


def _write_tokenizer(folder: Path) -> None:
    """The smallest that a run accepts; the ids of train.bin are random."""
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.WordLevel({end: 0, "word": 1}, unk_token=end))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, unk_token=end).save_pretrained(folder)


if __name__ == "__main__":
    main()
