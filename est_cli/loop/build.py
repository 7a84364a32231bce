"""Put a run together: data, model, optimizer, run folder, and the checkpoint it continues from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from est_cli.arch import spec_of
from est_cli.batch_sizes import requested
from est_cli.checkpoint import disk
from est_cli.checkpoint.content import load_checkpoint
from est_cli.checkpoint.store import clean_leftovers, newest_valid, set_aside_later
from est_cli.checks import check_fit
from est_cli.config import LmLossKind, RunConfig, TrainConfig
from est_cli.data import BlockOrder, Corpus, TokenBlocks, load_corpus
from est_cli.derived import options_of, scheduler_of, tokenizer_of
from est_cli.errors import CheckpointError, ConfigError
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingScheduler, apply_est, training_flops
from est_cli.est.flops import planned_ledger
from est_cli.est.sizes import SamplingOptions, full_sizes, realised_rates, sample_sizes
from est_cli.lm_loss import LmLoss
from est_cli.loop.device import attention_kernel, build_accelerator, compile_layers, keep_freed_memory, runs_ahead
from est_cli.loop.feed import Feed, StepInputs
from est_cli.loop.micro_batch import resolve
from est_cli.loop.run import Run, RunState, StageCost, ledger_at
from est_cli.models import build_model, checkpoint_activations, hf_config, set_end_of_text, unpacked_sequences
from est_cli.optim import build_optimizer
from est_cli.resume import Start, runs_folder
from est_cli.run_dir import RunDir, create_run_dir, default_run_name, lock
from est_cli.schema import leaves_of, plain, to_yaml
from est_cli.tracking import MetricsFile, Tracker, WandbSink, new_run_id
from est_cli.tracking.progress import RunProgress, StagePlan

log = logging.getLogger(__name__)

CACHE = Path("data")
"""Tokenised corpora and trained tokenizers, below the current folder."""

W_AND_B_KEYS = ("seed", "model.", "scheduler.", "stage.", "sampling.", "optim.", "train.", "dataset.name")
NOT_FOR_W_AND_B = ("model.name_or_path", "train.sample_prompt")
"""What W&B is told of the configuration: these keys and groups without those, which hold paths or free text."""


@dataclass(frozen=True)
class _Parts:
    """What is built before anything is written."""

    corpus: Corpus
    model: PreTrainedModel
    spec: ModelSpec
    scheduler: SamplingScheduler
    options: SamplingOptions
    accelerator: Accelerator
    train_blocks: TokenBlocks
    validation_blocks: TokenBlocks
    lm_loss: LmLoss


@contextmanager
def build(start: Start) -> Iterator[Run]:
    """A run ready for train(); its folder is locked until the end of the block. Any EstError may come out of it."""
    config = start.config
    keep_freed_memory()
    parts = _build_parts(config)
    with ExitStack() as stack:
        stack.enter_context(unpacked_sequences())
        stack.enter_context(_attention(config, parts))
        run_dir = _run_dir(start)
        stack.enter_context(lock(run_dir))
        clean_leftovers(run_dir.root)
        if start.folder is None:
            create_run_dir(run_dir.root.parent, run_dir.root.name)  # again: another may have used it before we owned it
            disk.replace_file(run_dir.config, to_yaml(config).encode())
        run = _assemble(config, parts, run_dir)
        stack.callback(run.feed.close)
        stack.callback(run.progress.close)
        stack.callback(run.tracker.close, None)
        _settle_micro_batches(run)
        yield run


def _build_parts(config: RunConfig) -> _Parts:
    hf = hf_config(config.model)
    spec = spec_of(hf)
    scheduler, options = scheduler_of(config), options_of(config.sampling)
    check_fit(config, spec)
    accelerator = build_accelerator(config.train.precision)
    lm_loss = _lm_loss(config.train, accelerator.device)
    corpus = load_corpus(config.dataset, tokenizer_of(config), spec.vocab_size, CACHE, config.train.seq_len)
    set_end_of_text(hf, config.model, corpus.tokenizer.eos_token_id)
    return _Parts(
        corpus=corpus,
        model=build_model(config.model, hf, config.seed),
        spec=spec,
        scheduler=scheduler,
        options=options,
        accelerator=accelerator,
        train_blocks=TokenBlocks(corpus.train, config.train.seq_len),
        validation_blocks=TokenBlocks(corpus.validation, config.train.seq_len, "validation"),
        lm_loss=lm_loss,
    )


def _attention(config: RunConfig, parts: _Parts) -> AbstractContextManager[None]:
    train = config.train
    return attention_kernel(
        train.attention, parts.accelerator.device, train.precision, parts.spec, config.model.dropout
    )


def _run_dir(start: Start) -> RunDir:
    if start.folder is not None:
        return RunDir(start.folder)
    config = start.config
    if config.run_name is None:
        name = default_run_name(config.model.name, config.scheduler.name.value, datetime.now())
        taken = sum(1 for _ in runs_folder(config).glob(f"{name}*"))  # runs started in the same second
        config.run_name = f"{name}-{taken + 1}" if taken else name
    return create_run_dir(runs_folder(config), config.run_name)


def _assemble(config: RunConfig, parts: _Parts, run_dir: RunDir) -> Run:
    corpus, seq_len = parts.corpus, config.train.seq_len
    model, handle = _prepare_model(config, parts)
    optimizer = build_optimizer(model, config.optim)
    clean_leftovers(run_dir.checkpoints)
    state = _restored_state(run_dir, model, optimizer, corpus) or _fresh_state(corpus)
    batch = config.train.tokens_per_step // seq_len
    costs = _stage_costs(parts, batch, seq_len)
    dense_step = training_flops(parts.spec, full_sizes(parts.spec), batch, seq_len)
    generator = IndexGenerator(parts.spec, config.seed, parts.options)
    micro_batches = _micro_batches_asked_for(config, parts.scheduler)
    progress = RunProgress(parts.scheduler.max_steps, state.step, _stage_plans(parts.scheduler, costs))
    return Run(
        config=config,
        dir=run_dir,
        accelerator=parts.accelerator,
        model=model,
        handle=handle,
        optimizer=optimizer,
        scheduler=parts.scheduler,
        generator=generator,
        corpus=corpus,
        train_blocks=parts.train_blocks,
        validation_blocks=parts.validation_blocks,
        feed=_feed(config, parts, generator, micro_batches),
        lm_loss=parts.lm_loss,
        micro_batches=micro_batches,
        costs=costs,
        dense_step=dense_step,
        ledger=ledger_at(state, dense_step),
        planned=planned_ledger(parts.spec, parts.scheduler, parts.options, batch, seq_len),
        state=state,
        tracker=_tracker(config, run_dir, state, progress),
        progress=progress,
    )


def _prepare_model(config: RunConfig, parts: _Parts) -> tuple[PreTrainedModel, EstHandle]:
    model = parts.model.to(parts.accelerator.device)
    handle = apply_est(model, parts.spec)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if _compiled(config.train, parts.accelerator.device):
        compile_layers(handle)
    model.train()
    return model, handle


def _restored_state(
    run_dir: RunDir, model: PreTrainedModel, optimizer: torch.optim.Optimizer, corpus: Corpus
) -> RunState | None:
    """Load the newest intact checkpoint into model and optimizer; None if the run has none yet."""
    found = newest_valid(run_dir.checkpoints, log.warning)
    if found is None:
        return None
    path, verified = found
    saved_state = load_checkpoint(path, model, optimizer, log.warning, verified=verified)
    state = RunState.from_json(saved_state, str(path))
    for what, saved, now in (
        ("dataset", state.data_hash, corpus.data_hash),
        ("tokenizer", state.tokenizer_hash, corpus.tokenizer_hash),
    ):
        if saved != now:
            raise CheckpointError(f"{path}: was made with another {what} ({saved[:12]}, now {now[:12]}); restore that")
    set_aside_later(run_dir.checkpoints, state.step)  # now, or retain() would count a damaged one among the newest
    return state


def _fresh_state(corpus: Corpus) -> RunState:
    return RunState(wandb_run_id=new_run_id(), data_hash=corpus.data_hash, tokenizer_hash=corpus.tokenizer_hash)


def _stage_costs(parts: _Parts, batch: int, seq_len: int) -> dict[int, StageCost]:
    costs = {}
    for number in parts.scheduler.occupied():
        sizes = sample_sizes(parts.spec, parts.scheduler.stages[number - 1].rates, parts.options)
        flops = training_flops(parts.spec, sizes, batch, seq_len)
        costs[number] = StageCost(flops, realised_rates(parts.spec, sizes))
    return costs


def _stage_plans(scheduler: SamplingScheduler, costs: dict[int, StageCost]) -> list[StagePlan]:
    return [StagePlan(n, scheduler.stages[n - 1].until_step, cost.flops.total) for n, cost in costs.items()]


def _feed(config: RunConfig, parts: _Parts, generator: IndexGenerator, micro_batches: dict[int, int]) -> Feed:
    """The inputs of step s: samples s * B ... of the shuffled blocks, and what is drawn for them."""
    batch, scheduler = config.train.tokens_per_step // config.train.seq_len, parts.scheduler
    order = BlockOrder(parts.train_blocks.num_blocks, config.seed)
    device = parts.accelerator.device

    def make(step: int) -> StepInputs:
        tokens = parts.train_blocks.take(order.blocks(step * batch, batch))
        rates, micro_batch = scheduler.rates_at(step), micro_batches[scheduler.stage_at(step)]
        draws = -(-batch // micro_batch) if parts.options.redraw == "forward" else 1
        drawn = tuple(generator.draw(step, rates, micro_step) for micro_step in range(draws))
        return StepInputs(tokens.pin_memory() if device.type == "cuda" else tokens, drawn)

    return Feed(make, runs_ahead(device))


def _compiled(train: TrainConfig, device: torch.device) -> bool:
    return device.type == "cuda" if train.compile is None else train.compile


def _lm_loss(train: TrainConfig, device: torch.device) -> LmLoss:
    if train.lm_loss is LmLossKind.torch and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ConfigError(f"train.lm_loss: torch {torch.__version__} has no loss of that kind; use chunked")
    pad_to = (128 if device.type == "cuda" else 1) if train.pad_vocab_to is None else train.pad_vocab_to
    return LmLoss(train.lm_loss.value, train.lm_chunk, pad_to, _compiled(train, device))


def _settle_micro_batches(run: Run) -> None:
    """Sizes that were asked for become those that fit, before the first step is made ready."""
    chosen = resolve(run)
    run.micro_batches.clear()  # of stages that lie behind there is nothing to say
    run.micro_batches.update(chosen)
    asked = requested(run.config.train.micro_batch, len(run.scheduler.stages))
    run.state.micro_batches |= {str(stage): size for stage, size in chosen.items() if asked[stage - 1] is None}


def _micro_batches_asked_for(config: RunConfig, scheduler: SamplingScheduler) -> dict[int, int]:
    """By stage; the whole step where `auto` will say."""
    batch = config.train.tokens_per_step // config.train.seq_len
    asked = requested(config.train.micro_batch, len(scheduler.stages))
    return {number: min(asked[number - 1] or batch, batch) for number in scheduler.occupied()}


def _tracker(config: RunConfig, run_dir: RunDir, state: RunState, progress: RunProgress) -> Tracker:
    metrics = MetricsFile(run_dir.metrics)
    metrics.truncate_after(state.step)
    leaves = leaves_of(plain(config)).items()
    told = {key: value for key, value in leaves if key.startswith(W_AND_B_KEYS) and key not in NOT_FOR_W_AND_B}
    assert config.run_name is not None
    sink = WandbSink(config.tracking, run_dir.root, config.run_name, state.wandb_run_id, told, progress.line)
    return Tracker(metrics, sink)
