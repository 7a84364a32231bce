"""Put a run together: data, model, optimizer, run folder, and the checkpoint it continues from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from transformers import PreTrainedModel

from est_cli.arch import logits_of, spec_of
from est_cli.batch_sizes import pieces, requested
from est_cli.checks import check_fit
from est_cli.config import Attention, LmLossKind, RunConfig, TrainConfig
from est_cli.data import BlockOrder, Corpus, TokenBlocks, load_corpus
from est_cli.derived import cuts_of, options_of, scheduler_of, tokenizer_of
from est_cli.errors import ConfigError
from est_cli.est import EstHandle, IndexGenerator, ModelSpec, SamplingScheduler, apply_est, training_flops
from est_cli.est.flops import ledger_of, planned_ran, ran_flops
from est_cli.est.sizes import Ran, SamplingOptions, full_sizes
from est_cli.lm_loss import LmLoss, Objective
from est_cli.loop.device import (
    attention_kernel,
    build_accelerator,
    compile_layers,
    keep_freed_memory,
    kind_of_device,
    runs_ahead,
)
from est_cli.loop.feed import Feed, StepInputs, own_samples, plan_step
from est_cli.loop.folder import owned_folder, restored_state
from est_cli.loop.micro_batch import resolve
from est_cli.loop.processes import check_processes, require_same_run, settle_processes
from est_cli.loop.run import Run, RunState, ledger_at
from est_cli.models import (
    attention_masks,
    build_model,
    checkpoint_activations,
    hf_config,
    set_end_of_text,
    unpacked_sequences,
    uses_kernels,
)
from est_cli.optim import build_optimizer
from est_cli.parallel import Alone, Exchange, Group, Replicas, Shards, peers_answer, shard, weight_checksum
from est_cli.rank import Rank, rank_of_environment
from est_cli.resume import Start
from est_cli.run_dir import RunDir
from est_cli.schema import leaves_of, plain
from est_cli.tracking import MetricsFile, Tracker, WandbSink, new_run_id
from est_cli.tracking.progress import RunProgress, StagePlan

CACHE = Path("data")
"""Tokenised corpora and trained tokenizers, below the current folder."""

W_AND_B_KEYS = ("seed", "model.", "scheduler.", "stage.", "sampling.", "optim.", "train.", "dataset.name")
NOT_FOR_W_AND_B = ("model.name_or_path", "train.sample_prompt")
"""What W&B is told of the configuration: these keys and groups without those, which hold paths or free text."""


@dataclass(frozen=True)
class Place:
    """Where a run gets its text and what it writes into."""

    corpus: Callable[[RunConfig, ModelSpec, bool], Corpus]
    """Of a configuration and its model; True: verify what is on the disk."""
    folder: Callable[[Start, Group], AbstractContextManager[RunDir]]
    quiet: bool = False
    """Show no progress."""


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
def build(start: Start, place: Place | None = None) -> Iterator[Run]:
    """A run ready for train(); its folder is locked until the end of the block. Any EstError may come out of it.

    Under a launcher every process calls it; rank 0 owns the folder. `place` None: the configuration's corpus, and a
    folder in outputs/.
    """
    config, rank, place = start.config, rank_of_environment(), place or Place(_load_corpus, owned_folder)
    keep_freed_memory()
    check_processes(config, rank)
    with ExitStack() as stack:
        if rank.world_size > 1:
            stack.enter_context(peers_answer(config.launch.timeout_s))
        parts = _build_parts(config, rank, place)
        group = Group(rank, config.launch.timeout_s)
        stack.enter_context(unpacked_sequences())
        stack.enter_context(_attention(config, parts))
        require_same_run(group, config, parts.corpus)
        run_dir = stack.enter_context(place.folder(start, group))
        run = _assemble(config, parts, run_dir, group, quiet=place.quiet or not rank.first)
        stack.callback(run.feed.close)
        stack.callback(run.progress.close)
        stack.callback(run.tracker.close, None)
        _settle_micro_batches(run)
        yield run
        if dist.is_initialized():  # as it is for the only process of a launcher, too
            dist.destroy_process_group()  # not after an exception: it may wait for a process that is gone


def _load_corpus(config: RunConfig, spec: ModelSpec, verify: bool) -> Corpus:
    return load_corpus(config.dataset, tokenizer_of(config), spec.vocab_size, CACHE, config.train.seq_len, verify)


def _build_parts(config: RunConfig, rank: Rank, place: Place) -> _Parts:
    """The processes meet only when the corpus is there: tokenising it may take longer than they wait for each other."""
    hf = hf_config(config.model)
    spec = spec_of(hf)
    scheduler, options = scheduler_of(config), options_of(config.sampling)
    check_fit(config, spec)
    lm_loss = _lm_loss(config.train, kind_of_device(), hf)
    corpus = place.corpus(config, spec, rank.local_rank == 0)  # verified once on each machine
    set_end_of_text(hf, config.model, corpus.tokenizer.eos_token_id)
    return _Parts(
        corpus=corpus,
        model=build_model(config.model, hf, config.seed),
        spec=spec,
        scheduler=scheduler,
        options=options,
        accelerator=build_accelerator(config.train.precision, rank, config.launch.timeout_s),
        train_blocks=TokenBlocks(corpus.train, config.train.seq_len),
        validation_blocks=TokenBlocks(corpus.validation, config.train.seq_len, "validation"),
        lm_loss=lm_loss,
    )


def _attention(config: RunConfig, parts: _Parts) -> AbstractContextManager[None]:
    train, spec, hf = config.train, parts.spec, parts.model.config
    if train.attention is not Attention.auto and not uses_kernels(hf):
        why = "caps its attention logits, which no kernel of torch can"
        raise ConfigError(f"train.attention: {spec.family} {why}; use auto")
    masks, dropout = attention_masks(hf, train.seq_len), config.model.dropout
    return attention_kernel(train.attention, parts.accelerator.device, train.precision, spec, dropout, masks)


def _assemble(config: RunConfig, parts: _Parts, run_dir: RunDir, group: Group, quiet: bool) -> Run:
    corpus, seq_len, rank = parts.corpus, config.train.seq_len, group.rank
    handle = _prepare_model(config, parts, rank)
    objective = Objective(parts.model, parts.lm_loss)
    exchange = _exchange(config, parts, objective, handle, rank)
    optimizer = build_optimizer(parts.model, config.optim, handle)
    state = restored_state(run_dir, parts.model, optimizer, corpus, group) or _fresh_state(corpus)
    settle_processes(state, config, rank, run_dir)
    if isinstance(exchange, Replicas) and config.launch.check_every:
        group.require_same(weight_checksum(parts.model), "its weights before the first step are not")
    batch = config.train.tokens_per_step // seq_len
    planned = _planned(config, parts, batch, rank)
    dense_step = training_flops(parts.spec, full_sizes(parts.spec), batch, seq_len)
    generator = IndexGenerator(parts.spec, config.seed, parts.options)
    micro_batches = _micro_batches_asked_for(config, parts.scheduler, rank)
    stage_plans = _stage_plans(parts, planned, seq_len)
    progress = RunProgress(parts.scheduler.max_steps, state.step, stage_plans, quiet=quiet)
    return Run(
        config=config,
        dir=run_dir,
        accelerator=parts.accelerator,
        rank=rank,
        group=group,
        model=parts.model,
        objective=objective,
        exchange=exchange,
        handle=handle,
        optimizer=optimizer,
        scheduler=parts.scheduler,
        generator=generator,
        corpus=corpus,
        train_blocks=parts.train_blocks,
        validation_blocks=parts.validation_blocks,
        feed=_feed(config, parts, generator, micro_batches, rank),
        micro_batches=micro_batches,
        dense_step=dense_step,
        ledger=ledger_at(state, dense_step),
        planned=ledger_of(parts.spec, planned.values(), seq_len),
        state=state,
        tracker=_tracker(config, run_dir, state, progress) if rank.first else Tracker(None, None),
        progress=progress,
    )


def _prepare_model(config: RunConfig, parts: _Parts, rank: Rank) -> EstHandle:
    model = parts.model
    if not _sharded(config, rank):  # shard() takes it to the device piece by piece: the whole may not fit there
        model.to(parts.accelerator.device)
    handle = apply_est(model, parts.spec)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if _compiled(config.train, parts.accelerator.device.type):
        compile_layers(handle)
    model.train()
    return handle


def _exchange(config: RunConfig, parts: _Parts, objective: Objective, handle: EstHandle, rank: Rank) -> Exchange:
    if rank.world_size == 1:
        return Alone()
    if not _sharded(config, rank):
        return Replicas(parts.model, handle.layers)
    shard(objective, handle.layers, parts.accelerator.device, rank.world_size)
    return Shards(objective, handle.layers)


def _sharded(config: RunConfig, rank: Rank) -> bool:
    return config.launch.strategy == "fsdp" and rank.world_size > 1


def _fresh_state(corpus: Corpus) -> RunState:
    return RunState(wandb_run_id=new_run_id(), data_hash=corpus.data_hash, tokenizer_hash=corpus.tokenizer_hash)


def _planned(config: RunConfig, parts: _Parts, batch: int, rank: Rank) -> dict[int, Ran]:
    cuts = cuts_of(config, len(parts.scheduler.stages), rank.world_size)
    return planned_ran(parts.spec, parts.scheduler, parts.options, batch, config.seed, cuts)


def _stage_plans(parts: _Parts, planned: dict[int, Ran], seq_len: int) -> list[StagePlan]:
    """Each stage with what an average step of it costs."""
    steps, stages = parts.scheduler.stage_steps(), parts.scheduler.stages
    return [
        StagePlan(n, stages[n - 1].until_step, ran_flops(parts.spec, ran, seq_len).total / steps[n - 1])
        for n, ran in planned.items()
    ]


def _feed(
    config: RunConfig, parts: _Parts, generator: IndexGenerator, micro_batches: dict[int, int], rank: Rank
) -> Feed:
    """The inputs of step s: samples s * B ... of the shuffled blocks, and what is drawn for them."""
    batch, scheduler = config.train.tokens_per_step // config.train.seq_len, parts.scheduler
    order = BlockOrder(parts.train_blocks.counts, config.seed, parts.corpus.weights)
    device = parts.accelerator.device

    def make(step: int) -> StepInputs:
        micro_batch = micro_batches[scheduler.stage_at(step)]
        samples = order.blocks(step * batch, batch)[own_samples(batch, micro_batch, rank)]
        tokens = parts.train_blocks.take(samples)
        sequences = pieces(batch, micro_batch, rank.world_size)
        planned = plan_step(generator, step, scheduler.rates_at(step), sequences, rank)
        return StepInputs(tokens.pin_memory() if device.type == "cuda" else tokens, *planned)

    return Feed(make, runs_ahead(device))


def _compiled(train: TrainConfig, device: str) -> bool:
    return device == "cuda" if train.compile is None else train.compile


def _lm_loss(train: TrainConfig, device: str, hf: Any) -> LmLoss:
    if train.lm_loss is LmLossKind.torch and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ConfigError(f"train.lm_loss: torch {torch.__version__} has no loss of that kind; use chunked")
    if train.lm_loss is LmLossKind.torch and logits_of(hf).cap is not None:
        raise ConfigError(f"train.lm_loss: torch cannot cap logits, as {hf.model_type} does; use chunked")
    pad_to = (128 if device == "cuda" else 1) if train.pad_vocab_to is None else train.pad_vocab_to
    return LmLoss(train.lm_loss.value, train.lm_chunk, pad_to, _compiled(train, device))


def _settle_micro_batches(run: Run) -> None:
    """Sizes that were asked for become those that fit, before the first step is made ready."""
    chosen = _agreed(resolve(run), run.group)
    run.micro_batches.clear()  # of stages that lie behind there is nothing to say
    run.micro_batches.update(chosen)
    asked = requested(run.config.train.micro_batch, len(run.scheduler.stages))
    run.state.micro_batches |= {str(stage): size for stage, size in chosen.items() if asked[stage - 1] is None}


def _agreed(sizes: dict[int, int], group: Group) -> dict[int, int]:
    """What fits in every process."""
    return dict(zip(sizes, group.smallest(list(sizes.values())), strict=True))


def _micro_batches_asked_for(config: RunConfig, scheduler: SamplingScheduler, rank: Rank) -> dict[int, int]:
    """By stage; this process's share of the step where `auto` will say."""
    batch = config.train.tokens_per_step // config.train.seq_len // rank.world_size
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
