"""What a configuration amounts to: its steps, its tokenizer, its sampling scheduler and options."""

from __future__ import annotations

from est_cli.config import Family, RunConfig, SamplingConfig, SchedulerName
from est_cli.est.schedule import SamplingRates, SamplingScheduler, dense, three_stage
from est_cli.est.sizes import SamplingOptions

DEFAULT_STEPS = 300


def max_steps(config: RunConfig) -> int:
    """Optimizer steps of the run: given, or the token budget rounded up to whole steps, or 300."""
    train = config.train
    if train.max_tokens is not None and train.tokens_per_step > 0:
        return -(-train.max_tokens // train.tokens_per_step)
    return DEFAULT_STEPS if train.max_steps is None else train.max_steps


def tokenizer_of(config: RunConfig) -> str:
    """The tokenizer's name: under `auto` that of the pre-trained model that is continued, else `bpe`."""
    if config.tokenizer != "auto":
        return config.tokenizer
    continued = config.model.family is Family.hf and config.model.pretrained
    return str(config.model.name_or_path) if continued else "bpe"


def scheduler_of(config: RunConfig) -> SamplingScheduler:
    """The sampling scheduler that the configuration describes."""
    stage, steps = config.stage, max_steps(config)
    if config.scheduler.name is SchedulerName.dense:
        return dense(steps)
    assert stage.t1 is not None and stage.t2 is not None
    assert stage.p_h is not None and stage.p_m is not None and stage.p_l is not None
    return three_stage(steps, stage.t1, stage.t2, SamplingRates(stage.p_h, stage.p_m, stage.p_l))


def options_of(sampling: SamplingConfig) -> SamplingOptions:
    """The sampling options in the form that est_cli.est takes."""
    return SamplingOptions(
        redraw=sampling.redraw.value,
        ranks=sampling.ranks.value,
        per_layer=sampling.per_layer,
        kv_groups=sampling.kv_groups.value,
        layer_scale=sampling.layer_scale.value,
        keep_ends=sampling.keep_ends,
    )
