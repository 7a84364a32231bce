"""Budget, batch and intervals."""

from __future__ import annotations

from collections.abc import Iterator

from est_cli.config import LmLossKind, Redraw, RunConfig
from est_cli.config.micro_batch import micro_batch_problems, stage_problems
from est_cli.config.resolve import drops_entries, max_steps, scheduler_of

MAX_PAD = 4096


def train_problems(config: RunConfig) -> Iterator[str]:
    train = config.train
    positive = ("tokens_per_step", "sample_tokens", "max_steps", "max_tokens", "eval_tokens")
    for key in (*positive, "lm_chunk", "pad_vocab_to", "profile_step", "profile_steps"):
        value = getattr(train, key)
        if value is not None and value < 1:
            yield f"train.{key}: {value} is out of range; it must be at least 1"
    yield from micro_batch_problems(train.micro_batch)
    for key in ("log_every", "eval_every", "checkpoint_every", "keep_every", "sample_every"):
        if getattr(train, key) < 0:
            yield f"train.{key}: {getattr(train, key)} is out of range; it must be at least 0 (0 means never)"
    if train.seq_len < 2:
        yield f"train.seq_len: {train.seq_len} is out of range; it must be at least 2 (a token and the next one)"
    elif train.tokens_per_step % train.seq_len:
        yield f"train.tokens_per_step: {train.tokens_per_step} is not a multiple of train.seq_len={train.seq_len}"
    if train.max_steps is not None and train.max_tokens is not None:
        yield "train.max_tokens: the budget is given twice; set train.max_steps=null or leave max_tokens null"
    if train.lm_loss is LmLossKind.whole and train.lm_chunk is not None:
        yield "train.lm_chunk: has no meaning under train.lm_loss=whole"
    if train.lm_loss is not LmLossKind.chunked and train.pad_vocab_to is not None:
        yield f"train.pad_vocab_to: has no meaning under train.lm_loss={train.lm_loss.value}"
    if train.pad_vocab_to is not None and train.pad_vocab_to > MAX_PAD:
        yield f"train.pad_vocab_to: {train.pad_vocab_to} is out of range; it must be at most {MAX_PAD}"
    if train.profile_step is not None and train.profile_step > max_steps(config) >= 1:
        yield f"train.profile_step: {train.profile_step} lies behind the last step, {max_steps(config)}"
    if train.keep_last < 2:
        yield f"train.keep_last: {train.keep_last} is out of range; at least 2, in case the newest is damaged"
    if config.share_prefix and config.sweep is None:
        yield "share_prefix: is for the runs of a sweep; set it under -m, or leave it false"
    if not 0 <= config.seed < 1 << 63:
        yield f"seed: {config.seed} is out of range; it must be at least 0 and below 2**63"


def stage_batch_problems(config: RunConfig) -> Iterator[str]:
    random = config.sampling.redraw is Redraw.forward or drops_entries(config)
    yield from stage_problems(config.train.micro_batch, len(scheduler_of(config).stages), random)
