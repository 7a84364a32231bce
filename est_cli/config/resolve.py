"""What a configuration amounts to: its steps, its tokenizer, its model, its sampling scheduler and options."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from est_cli.config import HF, ModelConfig, RunConfig, SamplingConfig, SchedulerName
from est_cli.config.micro_batch import pieces, requested
from est_cli.config.schedulers import make_scheduler
from est_cli.est.flops import planned_ran
from est_cli.est.schedule import SamplingScheduler
from est_cli.est.sizes import Cut, Ran, SamplingOptions
from est_cli.est.spec import ModelSpec
from est_cli.families import family_of

DEFAULT_STEPS = 300

_NO_NUMBERS = ("name", "family", "dropout", "name_or_path", "pretrained", "fused_activation", "fused_scan")
"""The keys of `model.*` that have a meaning in every family, or under hf only."""


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
    continued = config.model.family == HF and config.model.pretrained
    return str(config.model.name_or_path) if continued else "bpe"


def numbers_given(model: ModelConfig) -> dict[str, Any]:
    """The numbers in `model.*` that are set; which of them have a meaning is the family's to say."""
    return {key: value for key, value in asdict(model).items() if key not in _NO_NUMBERS and value is not None}


def preset_settings(model: ModelConfig) -> dict[str, Any]:
    """What the Hugging Face config of a checked preset is made with."""
    family = family_of(model.family)
    return {"model_type": model.family, **family.settings(family.numbers(numbers_given(model)))}


def scheduler_of(config: RunConfig) -> SamplingScheduler:
    """The sampling scheduler that the configuration describes; ValueError where it describes none."""
    return make_scheduler(config.scheduler.name, config.stage, max_steps(config))


def cuts_of(config: RunConfig, num_stages: int, world_size: int) -> dict[int, Cut]:
    """How a step of each stage is cut, by its number; a micro-batch that is not chosen yet counts as whole."""
    batch = config.train.tokens_per_step // config.train.seq_len
    sizes = requested(config.train.micro_batch, num_stages)
    return {
        number: Cut(tuple(pieces(batch, size or batch, world_size)), world_size)
        for number, size in enumerate(sizes, start=1)
    }


def planned_of(config: RunConfig, spec: ModelSpec, world_size: int) -> dict[int, Ran]:
    """What the whole run will run of the model that `spec` describes, by stage (see planned_ran); ValueError where the
    rates do not fit the model."""
    scheduler, batch = scheduler_of(config), config.train.tokens_per_step // config.train.seq_len
    cuts = cuts_of(config, len(scheduler.stages), world_size)
    return planned_ran(spec, scheduler, options_of(config.sampling), batch, config.seed, cuts)


def drops_entries(config: RunConfig) -> bool:
    """Whether plain dropout takes part, whose random numbers depend on how a step is cut into micro-batches."""
    return config.model.dropout > 0 or config.scheduler.name is SchedulerName.early_dropout


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
