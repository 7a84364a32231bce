"""What a person is told of a run before its first step."""

from __future__ import annotations

from est_cli.common.counts import counted
from est_cli.config.batch import describe_batch
from est_cli.config.micro_batch import describe_micro_batches
from est_cli.config.training import kept_none
from est_cli.training.run import Run

SHOWN_STAGES = 5
"""Of a run with more stages not all are told."""


def describe(run: Run) -> list[str]:
    """What a person wants to know before the first step, one line each."""
    wandb = run.tracker.wandb
    parameters = sum(p.numel() for p in run.model.parameters())
    tokens = run.batch.tokens_before(run.batch.max_steps)
    stages = [_stage_line(run, number) for number in run.scheduler.occupied()]
    if len(stages) > SHOWN_STAGES:
        stages[SHOWN_STAGES - 2 : -1] = ["..."]
    return [
        f"run       {run.dir.root} on {_device(run)}, W&B {'off' if wandb is None else wandb.mode.value}",
        f"model     {run.config.model.name}: {parameters:,} parameters, vocabulary {run.spec.vocab_size:,}",
        f"data      {run.config.dataset.name}: {_training_tokens(run)}, "
        f"{len(run.corpus.validation):,} for validation; this run reads {tokens:,}",
        f"step      {describe_batch(run.batch)}, "
        + describe_micro_batches(run.micro_batches, run.resolved.micro_batches),
        f"stages    {', '.join(stages)}",
        f"saving    {run.planned.saved_pct('blocks'):.2f} % of the block FLOPs, "
        f"{run.planned.saved_pct('total'):.2f} % of the total, at the end",
        *kept_none(run.config.train, run.batch.max_steps),
    ]


def _training_tokens(run: Run) -> str:
    if run.supply is None:
        return f"{len(run.corpus.train):,} training tokens"
    there, parts = sum(run.supply.order.admitted), sum(len(text.units) for text in run.supply.ahead.texts)
    rest = ", the rest while it trains" if there < parts else ""
    return f"{there} of {parts} parts are tokenised{rest}"


def _device(run: Run) -> str:
    if run.rank.world_size == 1:
        return str(run.accelerator.device)
    return f"{run.rank.world_size} processes ({run.accelerator.device.type}, {run.config.launch.strategy})"


def _stage_line(run: Run, number: int) -> str:
    steps = run.scheduler.stage_steps()[number - 1]
    return f"{number}: {counted(steps, 'step')} {run.scheduler.stages[number - 1].describe()}"
