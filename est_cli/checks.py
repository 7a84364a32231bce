"""Ranges and contradictions of a configuration, found before anything heavy is imported or written."""

from __future__ import annotations

import math
from collections.abc import Iterator

from est_cli.batch_sizes import micro_batch_problems, stage_problems
from est_cli.config import (
    DEFAULT_DECAY,
    Family,
    LmLossKind,
    LrSchedule,
    ModelConfig,
    PlanConfig,
    Redraw,
    RunConfig,
    SamplingConfig,
    SchedulerName,
    Source,
)
from est_cli.derived import max_steps, options_of, scheduler_of, tokenizer_of
from est_cli.errors import ConfigError
from est_cli.est.schedule import SamplingRates, boundary_step
from est_cli.est.sizes import sample_sizes
from est_cli.est.spec import ModelSpec

MAX_PAD = 4096
SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "max_positions")


def check(config: RunConfig) -> None:
    """Raise one ConfigError that names every problem: `<key>: <what, and what would be right>`."""
    problems = [*_model(config), *_dataset(config), *_train(config), *_optim(config), *_scheduler(config)]
    if isinstance(config, PlanConfig):
        problems += _plan(config)
    if not problems and config.model.family is not Family.hf:
        problems = [*_fit(config, _preset_sizes(config.model))]
    if not problems:
        problems = [*_micro_batches(config)]
    if problems:
        raise ConfigError("; also ".join(problems))


def check_fit(config: RunConfig, sizes: ModelSpec) -> None:
    """Raise ConfigError where the run does not fit the model. check() does it for presets, whose sizes it knows."""
    for problem in _fit(config, sizes):
        raise ConfigError(problem)


def _model(config: RunConfig) -> Iterator[str]:
    model = config.model
    if not 0.0 <= model.dropout < 1.0:
        yield f"model.dropout: {model.dropout} is out of range; it must be in [0, 1)"
    if model.family is Family.hf:
        yield from _hf_model(config)
        return
    if model.name_or_path is not None:
        yield "model.name_or_path: has a meaning only with model=hf"
    missing = [size for size in SIZES if getattr(model, size) is None]
    yield from (f"model.{size}: null is not a size; give a positive integer" for size in missing)
    sizes = (*SIZES, "num_kv_heads", "mlp_size")
    given = [(size, getattr(model, size)) for size in sizes if getattr(model, size) is not None]
    wrong = [(size, value) for size, value in given if value < 1]
    yield from (f"model.{size}: {value} is out of range; it must be at least 1" for size, value in wrong)
    if not missing and not wrong:
        yield from _heads(config)
    if model.rope_theta is None:
        return
    if model.family is Family.gpt2:
        yield "model.rope_theta: GPT-2 has learned positions, no rotary ones; leave it null"
    elif not (math.isfinite(model.rope_theta) and model.rope_theta > 0):
        yield f"model.rope_theta: {model.rope_theta} is out of range; it must be above 0"


def _hf_model(config: RunConfig) -> Iterator[str]:
    model = config.model
    if not model.name_or_path:
        yield "model.name_or_path: is missing; model=hf needs a config or checkpoint folder, or a hub id"
    sizes = (*SIZES, "num_kv_heads", "mlp_size", "rope_theta", "tie_embeddings")
    for size in sizes:
        if getattr(model, size) is not None:
            yield f"model.{size}: comes from model.name_or_path under model=hf; leave it null"


def _heads(config: RunConfig) -> Iterator[str]:
    model = config.model
    assert model.hidden_size is not None and model.num_heads is not None
    if model.hidden_size % model.num_heads:
        yield f"model.num_heads: {model.num_heads} heads do not divide model.hidden_size={model.hidden_size}"
    elif model.family is Family.llama and (model.hidden_size // model.num_heads) % 2:
        yield f"model.num_heads: rotary positions need an even head size, got {model.hidden_size // model.num_heads}"
    kv_heads = model.num_heads if model.num_kv_heads is None else model.num_kv_heads
    if model.family is Family.gpt2 and kv_heads != model.num_heads:
        yield f"model.num_kv_heads: GPT-2 has as many KV heads as heads; leave it null, got {kv_heads}"
    elif model.num_heads % kv_heads:
        yield f"model.num_kv_heads: {kv_heads} KV heads do not divide model.num_heads={model.num_heads}"


def _preset_sizes(model: ModelConfig) -> ModelSpec:
    """The specification of a checked preset as far as its sizes go, without the modules."""
    assert model.hidden_size is not None and model.num_heads is not None and model.num_layers is not None
    assert model.vocab_size is not None and model.max_positions is not None
    return ModelSpec(
        family=model.family.value,
        layers="",
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_heads if model.num_kv_heads is None else model.num_kv_heads,
        head_dim=model.hidden_size // model.num_heads,
        mlp_size=4 * model.hidden_size if model.mlp_size is None else model.mlp_size,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        max_positions=model.max_positions,
        projections=(),
    )


def _fit(config: RunConfig, sizes: ModelSpec) -> Iterator[str]:
    seq_len, positions = config.train.seq_len, sizes.max_positions
    if seq_len > positions:
        yield f"train.seq_len: {seq_len} is longer than the model's {positions} positions (model.max_positions)"
    scheduler, options = scheduler_of(config), options_of(config.sampling)
    try:
        for number in scheduler.occupied():
            sample_sizes(sizes, scheduler.stages[number - 1].rates, options)
    except ValueError as error:
        yield str(error)


def _dataset(config: RunConfig) -> Iterator[str]:
    data = config.dataset
    if data.source in (Source.files, Source.tokens) and not data.files:
        yield f"dataset.files: is empty; dataset={data.name} needs paths, for example dataset.files=[corpus/*.txt]"
    if data.source not in (Source.files, Source.tokens):
        for key in ("files", "validation_files"):
            if getattr(data, key):
                yield f"dataset.{key}: dataset={data.name} reads no files; use dataset=text or dataset=tokens"
    if data.source is Source.hub and not data.hub_ids:
        yield "dataset.hub_ids: is empty; name at least one data set of the hub"
    if data.source is not Source.hub and data.hub_ids:
        yield f"dataset.hub_ids: dataset={data.name} does not read the hub; use dataset=hub"
    if not 0.0 < data.validation_fraction < 1.0:
        yield f"dataset.validation_fraction: {data.validation_fraction} is out of range; it must be in (0, 1)"
    if data.source is Source.tokens and tokenizer_of(config) == "bpe":
        yield "tokenizer: dataset=tokens holds ids of a tokenizer that exists; name its folder or hub id"
    if data.token_dtype not in ("uint16", "uint32"):
        yield f"dataset.token_dtype: {data.token_dtype!r} is not one of uint16, uint32"
    if data.num_workers is not None and data.num_workers < 1:
        yield f"dataset.num_workers: {data.num_workers} is out of range; it must be at least 1"


def _train(config: RunConfig) -> Iterator[str]:
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
    if not 0 <= config.seed < 1 << 63:
        yield f"seed: {config.seed} is out of range; it must be at least 0 and below 2**63"


def _micro_batches(config: RunConfig) -> Iterator[str]:
    random = config.sampling.redraw is Redraw.forward or config.model.dropout > 0
    yield from stage_problems(config.train.micro_batch, len(scheduler_of(config).stages), random)


def _optim(config: RunConfig) -> Iterator[str]:
    optim = config.optim
    if optim.name != "adamw":
        yield f"optim.name: {optim.name!r} is not one of adamw"
    if not (math.isfinite(optim.lr) and optim.lr > 0):
        yield f"optim.lr: {optim.lr} is out of range; it must be above 0"
    for key in ("beta1", "beta2"):
        if not 0.0 <= getattr(optim, key) < 1.0:
            yield f"optim.{key}: {getattr(optim, key)} is out of range; it must be in [0, 1)"
    for key in ("weight_decay", "grad_clip"):
        if not (math.isfinite(getattr(optim, key)) and getattr(optim, key) >= 0):
            yield f"optim.{key}: {getattr(optim, key)} is out of range; it must be at least 0"
    if not (math.isfinite(optim.eps) and optim.eps > 0):
        yield f"optim.eps: {optim.eps} is out of range; it must be above 0"
    if optim.decay is not None and optim.schedule is not LrSchedule.wsd:
        yield f"optim.decay: belongs to optim.schedule=wsd and has no meaning under {optim.schedule.value}"
    if optim.min_lr_ratio is not None:
        if optim.schedule is LrSchedule.constant:
            yield "optim.min_lr_ratio: has no meaning under optim.schedule=constant"
        elif not 0.0 <= optim.min_lr_ratio <= 1.0:
            yield f"optim.min_lr_ratio: {optim.min_lr_ratio} is out of range; it must be in [0, 1]"
    yield from _lr_spans(config)


def _lr_spans(config: RunConfig) -> Iterator[str]:
    """warmup and decay are spans of the run; together they must fit into it."""
    steps, spans = max_steps(config), {}
    if steps < 1:
        return
    for key, default in (("warmup", 0.0), ("decay", DEFAULT_DECAY)):
        value = getattr(config.optim, key)
        try:
            spans[key] = boundary_step(default if value is None else value, steps)
        except ValueError as error:
            yield f"optim.{key}: {error}"
    if config.optim.schedule is LrSchedule.wsd and len(spans) == 2 and sum(spans.values()) > steps:
        yield f"optim.decay: warm-up ({spans['warmup']}) and decay ({spans['decay']}) exceed the run of {steps} steps"


def _scheduler(config: RunConfig) -> Iterator[str]:
    stage = config.stage
    keys = ("t1", "t2", "p_h", "p_m", "p_l")
    if config.scheduler.name is SchedulerName.dense:
        for key in keys:
            if getattr(stage, key) is not None:
                yield f"stage.{key}: has no meaning under scheduler=dense; use scheduler=three_stage"
        for key, default in vars(SamplingConfig()).items():
            if getattr(config.sampling, key) != default:
                yield f"sampling.{key}: has no meaning under scheduler=dense; use scheduler=three_stage"
        return
    missing = [key for key in keys if getattr(stage, key) is None]
    yield from (f"stage.{key}: is missing; scheduler={config.scheduler.name.value} needs it" for key in missing)
    if not missing and max_steps(config) >= 1:
        yield from _stages(config)


def _stages(config: RunConfig) -> Iterator[str]:
    stage, steps, problems = config.stage, max_steps(config), 0
    for key in ("t1", "t2"):
        try:
            boundary_step(getattr(stage, key), steps)
        except ValueError as error:
            problems += 1
            yield f"stage.{key}: {error}"
    for key in ("p_h", "p_m", "p_l"):
        try:
            SamplingRates(**{key: getattr(stage, key)})
        except ValueError as error:
            problems += 1
            yield f"stage.{error}"
    if problems == 0:
        try:
            scheduler_of(config)
        except ValueError as error:
            yield str(error)


def _plan(config: PlanConfig) -> Iterator[str]:
    if config.target_saving is None:
        return
    if config.scheduler.name is SchedulerName.dense:
        yield "target_saving: scheduler=dense saves nothing; use scheduler=three_stage"
    if not 0.0 < config.target_saving < 1.0:
        yield f"target_saving: {config.target_saving} is out of range; it is a fraction in (0, 1), 0.25 for a quarter"
