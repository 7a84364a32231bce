"""Put a run together: data, model, optimizer, run folder, and the checkpoint it continues from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from transformers import GenerationConfig

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank, rank_of_environment
from est_cli.config import Attention, Precision, RunConfig
from est_cli.config.resolve import Resolved
from est_cli.data import Corpus
from est_cli.data.parts import PartOrder
from est_cli.distributed import (
    DataParallel,
    FullySharded,
    GradientSync,
    Group,
    NoSync,
    peers_answer,
    shard,
    weight_checksum,
    wire_dtype,
)
from est_cli.distributed.device import (
    attention_kernel,
    compile_layers,
    deterministic_kernels,
    keep_freed_memory,
    open_communicator,
    own_device,
    prepare_gpu_environment,
    repeated_kv_heads,
    use_precision,
)
from est_cli.distributed.hardware import repeats_kv_heads, runs_ahead, settled_precision
from est_cli.est import EstHandle, IndexGenerator, apply_est
from est_cli.est.flops import flops_of
from est_cli.est.sizes import SequenceCounts
from est_cli.models import (
    attention_masks,
    checkpoint_activations,
    packed_sequences,
    unpacked_sequences,
    uses_kernels,
)
from est_cli.models.lm_loss import Objective
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Tracker, new_run_id
from est_cli.tracking.names import NAMES
from est_cli.tracking.progress import RunProgress, StagePlan
from est_cli.training.facts import facts_of
from est_cli.training.feed import Feed
from est_cli.training.folder import owned_folder, restored_state
from est_cli.training.health import Health
from est_cli.training.inputs import BatchSource
from est_cli.training.micro_batch import rehearse, resolve
from est_cli.training.optim import LossScale, build_optimizer
from est_cli.training.parts import Parts, RunInputs, build_parts, configured_corpus, settled, sharded
from est_cli.training.processes import check_processes, require_same_run, settle_processes
from est_cli.training.reading import Reading
from est_cli.training.run import Run, RunState, ledger_at, precision_of
from est_cli.training.start import Start
from est_cli.training.supply import Supply
from est_cli.training.tracker import open_tracker, stopped

log = logging.getLogger(__name__)


@contextmanager
def build(start: Start, place: RunInputs | None = None) -> Iterator[Run]:
    """A run ready for train(); its folder is locked until the end of the block. Any EstError may come out of it.

    Under a launcher every process calls it; rank 0 owns the folder. `place` None: the configuration's corpus, and a
    folder in outputs/.
    """
    rank, place = rank_of_environment(), place or RunInputs(configured_corpus, owned_folder)
    keep_freed_memory()
    prepare_gpu_environment()
    check_processes(start.run, rank)
    start = replace(start, run=settled(start.run, rank))
    config, precision = start.config, precision_of(start.config)
    if rank.first and start.precision_left_open and precision != settled_precision(None, own_device(rank)):
        told = "%s: goes on with train.precision=%s; give train.precision, or a run_name, for another run"
        log.info(told, start.folder, precision.value)
    use_precision(precision)
    with ExitStack() as stack:
        if rank.world_size > 1:
            stack.enter_context(peers_answer(config.launch.timeout_s))
        parts = build_parts(start.run, rank, place)
        start = replace(start, run=parts.run)  # with the commits of what came from the hub
        config = start.config
        if parts.corpus.ahead is not None and rank.local_rank == 0:  # the others of this machine see what comes of it
            stack.enter_context(parts.corpus.ahead.working())
        open_communicator(parts.accelerator.device)
        group = Group(rank, config.launch.timeout_s)
        stack.enter_context(unpacked_sequences() if parts.lm_loss.end_of_text is None else packed_sequences())
        stack.enter_context(repeated_kv_heads(repeats_kv_heads(parts.accelerator.device, precision)))
        stack.enter_context(_attention(config, parts))
        if config.train.deterministic and parts.accelerator.device.type != "cpu":  # whose sums have one order anyway
            stack.enter_context(deterministic_kernels(config.train.attention))
        require_same_run(group, config, parts.corpus)
        run_dir = stack.enter_context(place.folder(start, group))
        run = _assemble(config, parts, run_dir, group, quiet=place.quiet or not rank.first)
        stack.callback(run.feed.close)
        stack.callback(run.progress.close)
        stack.push(stopped(lambda: run.tracker))
        _settle_micro_batches(run)
        rehearse(run)
        yield run
        if dist.is_initialized():  # as it is for the only process of a launcher, too
            dist.destroy_process_group()  # not after an exception: it may wait for a process that is gone


def _attention(config: RunConfig, parts: Parts) -> AbstractContextManager[None]:
    train, spec, hf = config.train, parts.spec, parts.model.config
    if train.attention not in (Attention.auto, Attention.flex) and not uses_kernels(hf):
        why = "caps its attention logits, which no kernel of torch can"
        raise ConfigError(f"train.attention: {spec.family} {why}; use auto")
    masks = attention_masks(hf, parts.run.batch.block, packed=parts.lm_loss.end_of_text is not None)
    dropout = config.model.dropout
    return attention_kernel(train.attention, parts.accelerator.device, precision_of(config), spec, dropout, masks)


def _assemble(config: RunConfig, parts: Parts, run_dir: RunDir, group: Group, quiet: bool) -> Run:
    corpus, rank = parts.corpus, group.rank
    handle = _prepare_model(config, parts, rank)
    objective = Objective(parts.model, parts.lm_loss)
    gradient_sync = _gradient_sync(config, parts, objective, handle, rank)
    if sharded(config, rank) and parts.model.can_generate():  # samples end together: by what the first process has read
        shared = group.share(parts.model.generation_config.to_dict() if rank.first else None)
        parts.model.generation_config = GenerationConfig.from_dict(shared)
    optimizer = build_optimizer(parts.model, config.optim, handle)
    max_steps = parts.run.scheduler.max_steps
    state = restored_state(run_dir, max_steps, parts.model, optimizer, corpus, group) or _fresh_state(corpus)
    settle_processes(state, config, rank, run_dir)
    if isinstance(gradient_sync, DataParallel) and config.launch.check_every:
        group.require_same(weight_checksum(parts.model), "its weights before the first step are not")
    reading = Reading(parts.run.batch, state.passed)
    planned = parts.run.planned(parts.spec, rank.world_size)
    end_of_text = parts.lm_loss.end_of_text
    generator = IndexGenerator(parts.spec, config.seed, parts.run.options, rank.world_size)
    micro_batches = _micro_batches_asked_for(parts.run, rank)
    source = BatchSource(
        scheduler=parts.run.scheduler,
        reading=reading,
        blocks=parts.train_blocks,
        order=parts.train_order,
        generator=generator,
        micro_batches=micro_batches,
        rank=rank,
        pinned=parts.accelerator.device.type == "cuda",
        end_of_text=end_of_text,
    )
    stage_plans = _stage_plans(parts, planned)
    progress = RunProgress(max_steps, state.step, stage_plans, quiet=quiet)
    ledger = parts.run.ledger(parts.spec, planned)
    facts = facts_of(config, parts, state, ledger, rank) if rank.first else {}

    def tracker_at(state: RunState) -> Tracker:
        return open_tracker(config, run_dir, state, progress, facts) if rank.first else Tracker(None, None)

    return Run(
        resolved=parts.run,
        dir=run_dir,
        accelerator=parts.accelerator,
        compiled=parts.compiled,
        rank=rank,
        group=group,
        model=parts.model,
        objective=objective,
        gradient_sync=gradient_sync,
        handle=handle,
        health=_health(config, parts, handle, rank),
        optimizer=optimizer,
        loss_scale=_loss_scale(config, state, parts.accelerator.device),
        generator=generator,
        corpus=corpus,
        supply=_supply(parts, group, reading),
        validation_blocks=parts.validation_blocks,
        reading=reading,
        source=source,
        feed=Feed(source.inputs_of, runs_ahead(parts.accelerator.device)),
        micro_batches=micro_batches,
        ledger=ledger_at(state, parts.spec, reading.batch, apart=end_of_text is not None),
        planned=ledger,
        state=state,
        tracker=tracker_at(state),
        tracker_at=tracker_at,
        progress=progress,
        tasks=parts.tasks,
    )


def _supply(parts: Parts, group: Group, reading: Reading) -> Supply | None:
    """What says whether the text of a step is there already; None where all of it is."""
    ahead, order = parts.corpus.ahead, parts.train_order
    if ahead is None or not isinstance(order, PartOrder):
        return None
    return Supply(ahead, order, group, reading)


def _prepare_model(config: RunConfig, parts: Parts, rank: Rank) -> EstHandle:
    model = parts.model
    if not sharded(config, rank):  # shard() takes it to the device piece by piece: the whole may not fit there
        model.to(parts.accelerator.device)
    handle = apply_est(model, parts.spec)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if parts.compiled:
        compile_layers(handle, rank.local_world_size)
    model.train()
    return handle


def _gradient_sync(
    config: RunConfig, parts: Parts, objective: Objective, handle: EstHandle, rank: Rank
) -> GradientSync:
    if rank.world_size == 1:
        return NoSync()
    if not sharded(config, rank):
        return DataParallel(parts.model, handle.layers, wire_dtype(config.launch.reduce_dtype))
    shard(objective, handle.layers, parts.accelerator.device, rank.world_size, config.launch)
    return FullySharded(objective, handle.layers)


def _health(config: RunConfig, parts: Parts, handle: EstHandle, rank: Rank) -> Health:
    shards = (config.launch.shard_size or rank.world_size) if sharded(config, rank) else 1
    replicas = None if rank.world_size == 1 else rank.world_size // shards
    return Health(parts.model, handle, config.train.log_layers_every, parts.accelerator.device, replicas)


def _loss_scale(config: RunConfig, state: RunState, device: torch.device) -> LossScale | None:
    if precision_of(config) is not Precision.fp16:
        return None
    return LossScale.at(state.loss_scale, state.good_steps, device)


def _fresh_state(corpus: Corpus) -> RunState:
    return RunState(
        wandb_run_id=new_run_id(),
        tracker_names=NAMES,
        data_hash=corpus.data_hash,
        tokenizer_hash=corpus.tokenizer_hash,
    )


def _stage_plans(parts: Parts, planned: dict[int, SequenceCounts]) -> list[StagePlan]:
    """Each stage with what an average step of it costs."""
    run, steps = parts.run, parts.run.scheduler.stage_steps()
    ends, batches = run.batch.ends, run.batch.stages
    return [
        StagePlan(n, ends[n - 1], flops_of(parts.spec, ran, batches[n - 1].seq_len).total / steps[n - 1])
        for n, ran in planned.items()
    ]


def _settle_micro_batches(run: Run) -> None:
    """Sizes that were asked for become those that fit, before the first step is made ready."""
    chosen = _agreed(resolve(run), run.group)
    run.micro_batches.clear()  # of stages that lie behind there is nothing to say
    run.micro_batches.update(chosen)
    requested = run.resolved.micro_batches
    run.state.micro_batches |= {str(stage): size for stage, size in chosen.items() if requested[stage - 1] is None}


def _agreed(sizes: dict[int, int], group: Group) -> dict[int, int]:
    """What fits in every process."""
    return dict(zip(sizes, group.smallest(list(sizes.values())), strict=True))


def _micro_batches_asked_for(run: Resolved, rank: Rank) -> dict[int, int]:
    """By stage; this process's share of the step where `auto` will say."""
    own = {number: run.batch.of_stage(number).sequences // rank.world_size for number in run.scheduler.occupied()}
    return {number: min(run.micro_batches[number - 1] or whole, whole) for number, whole in own.items()}
