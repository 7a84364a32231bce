"""What a run is made of before anything is written: text, model, scheduler, device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from est_cli.common.errors import ConfigError
from est_cli.common.rank import Rank
from est_cli.config import Attention, LmLossKind, Packing, RunConfig, TrainConfig
from est_cli.config.data import NO_REVISION
from est_cli.config.launch import gather_problems
from est_cli.config.method import with_package
from est_cli.config.resolve import Resolved
from est_cli.config.run import tokenizer_revision_of
from est_cli.config.setting import AUTO, refuse
from est_cli.data import BlockOrder, Corpus, TokenBlocks, load_corpus
from est_cli.data.parts import PartOrder
from est_cli.data.text.shares import WINDOW
from est_cli.distributed import Group
from est_cli.distributed.device import Accelerator, build_accelerator, missing_for_compiling, own_device
from est_cli.distributed.hardware import device_type, kind_of, settled_precision
from est_cli.distributed.unseen_gpu import unseen_gpu
from est_cli.est import ModelSpec
from est_cli.families import logits_of, spec_of
from est_cli.models import build_model, empty_model, hf_config, pinned, set_end_of_text
from est_cli.models.documents import check_documents, mark_documents, use_flex_attention
from est_cli.models.lm_loss import LmLoss
from est_cli.storage.run_dir import RunDir
from est_cli.training.start import Start
from est_cli.training.tasks import Tasks, open_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInputs:
    """Where a run gets its text and what it writes into."""

    corpus: Callable[[Resolved, ModelSpec, bool], Corpus]
    """Of a run and its model; True: verify what is on the disk."""
    folder: Callable[[Start, Group], AbstractContextManager[RunDir]]
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class Parts:
    """What is built before anything is written."""

    corpus: Corpus
    model: PreTrainedModel
    """On the CPU; where it will be sharded, the weights are in the first process alone (see sharded)."""
    spec: ModelSpec
    run: Resolved
    accelerator: Accelerator
    train_blocks: TokenBlocks | PartOrder
    train_order: BlockOrder | PartOrder
    validation_blocks: TokenBlocks
    lm_loss: LmLoss
    compiled: bool
    """Whether its layers are."""
    tasks: Tasks | None
    """Of train.eval_tasks."""


def configured_corpus(run: Resolved, spec: ModelSpec, verify: bool) -> Corpus:
    config = run.config
    begun = config.resume not in (None, AUTO)
    seq_len, reads = run.batch.block, run.batch.tokens_before(run.max_steps)
    revision, cache = tokenizer_revision_of(config), config.paths.data_folder
    return load_corpus(config.dataset, run.tokenizer, spec.vocab_size, cache, seq_len, verify, begun, reads, revision)


def sharded(config: RunConfig, rank: Rank) -> bool:
    """Whether each process will hold a share of the model."""
    return config.launch.strategy == "fsdp" and rank.world_size > 1


def writes_shares(config: RunConfig, rank: Rank) -> bool:
    """Whether each process writes its own share of a checkpoint."""
    return config.launch.sharded_checkpoints and sharded(config, rank)


def settled(run: Resolved, rank: Rank) -> Resolved:
    """The run with what its configuration leaves to the machine, as its config.yaml is to hold it.

    Raises ConfigError where the device does not compute in what was asked for.
    """
    train = run.config.train
    precision = settled_precision(train.precision, own_device(rank))
    refuse(gather_problems(run.config.launch, precision))
    train = replace(train, precision=precision)
    return with_settled_text(replace(run, config=replace(run.config, train=train)))


def with_settled_text(run: Resolved) -> Resolved:
    """The run with as many tokens as it reads where dataset.max_tokens=auto asks for these."""
    dataset = run.config.dataset
    if dataset.max_tokens == AUTO:
        dataset = replace(dataset, max_tokens=_tokens_read(run))
    return replace(run, config=replace(run.config, dataset=dataset))


def with_revisions(run: Resolved, corpus: Corpus) -> Resolved:
    """The run with the commits of its text and tokenizer, where these are of the hub."""
    config, found = run.config, corpus.revisions
    if any(found):
        revision = [NO_REVISION if commit is None else commit for commit in found]
        config = replace(config, dataset=replace(config.dataset, revision=revision))
    commit = corpus.tokenizer_revision or config.tokenizer_revision
    return replace(run, config=replace(config, tokenizer_revision=commit))


def _tokens_read(run: Resolved) -> int:
    """As many tokens as the run reads; of a mixture whole windows, so that no source falls short of its share."""
    samples, window = run.batch.blocks_before(run.max_steps), 1 if run.config.dataset.weights is None else WINDOW
    return -(-samples // window) * window * run.batch.block


def build_parts(run: Resolved, rank: Rank, place: RunInputs) -> Parts:
    """The processes meet only when the corpus is there: tokenising it may take longer than they wait for each other."""
    config = run.config
    hf = hf_config(config.model)
    spec = spec_of(hf)
    run.check_fit(spec)
    apart = config.dataset.packing is Packing.document
    if apart:
        check_documents(hf, run.batch.block)
    if config.train.attention is Attention.flex:
        use_flex_attention(hf, device_type())
    if kind_of(device_type()).never_run and rank.first:
        log.warning("%s: no run of est on this kind of device is known of (docs/devices.md)", device_type())
    if (told := unseen_gpu()) and rank.first:
        log.warning("%s", told)
    compiled = _compiled(config.train, device_type(), rank)
    lm_loss = _lm_loss(config.train, device_type(), hf, compiled)
    tasks = open_tasks(config.train)
    model, scheduler = pinned(config.model, hf), with_package(config.scheduler)
    run = replace(run, config=replace(config, model=model, scheduler=scheduler))
    corpus = place.corpus(run, spec, rank.local_rank == 0)  # verified once on each machine
    run = with_revisions(run, corpus)
    config = run.config
    set_end_of_text(hf, config.model, corpus.tokenizer.eos_token_id)
    mark_documents(hf, apart)
    if apart:
        lm_loss = replace(lm_loss, end_of_text=corpus.tokenizer.eos_token_id)
    blocks, order = _samples(corpus, run.batch.block, config.seed)
    filled_later = sharded(config, rank) and not rank.first
    return Parts(
        corpus=corpus,
        model=empty_model(hf) if filled_later else build_model(config.model, hf, config.seed),
        spec=spec,
        run=run,
        accelerator=build_accelerator(rank, config.launch.timeout_s),
        train_blocks=blocks,
        train_order=order,
        validation_blocks=TokenBlocks(corpus.validation, run.batch.block, "validation"),
        lm_loss=lm_loss,
        compiled=compiled,
        tasks=tasks,
    )


def _samples(corpus: Corpus, seq_len: int, seed: int) -> tuple[TokenBlocks | PartOrder, BlockOrder | PartOrder]:
    """The blocks of the training text, and which of them is the i-th sample."""
    if corpus.ahead is not None:
        order = PartOrder(corpus.ahead.texts, seq_len, seed, corpus.weights)
        return order, order
    blocks = TokenBlocks(corpus.train, seq_len)
    return blocks, BlockOrder(blocks.counts, seed, corpus.weights)


def _compiled(train: TrainConfig, device: str, rank: Rank) -> bool:
    """Whether layers are compiled. Raises ConfigError where they should be and cannot."""
    if not (kind_of(device).compiled if train.compile is None else train.compile):
        return False
    missing = missing_for_compiling(device)
    if missing is None:
        return True
    if train.compile:
        raise ConfigError(f"train.compile: needs {missing}, and there is none here; install one, or use false")
    if rank.first:
        log.warning("train.compile: %s is missing, so the layers run uncompiled, and slower", missing)
    return False


def _lm_loss(train: TrainConfig, device: str, hf: Any, compiled: bool) -> LmLoss:
    if train.lm_loss is LmLossKind.torch and not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise ConfigError(f"train.lm_loss: torch {torch.__version__} has no loss of that kind; use chunked")
    if train.lm_loss is LmLossKind.torch and logits_of(hf).cap is not None:
        raise ConfigError(f"train.lm_loss: torch cannot cap logits, as {hf.model_type} does; use chunked")
    if train.lm_loss is LmLossKind.triton and (device == "cpu" or find_spec("triton") is None):
        raise ConfigError("train.lm_loss: triton needs a GPU and the package triton of its build of torch; use chunked")
    pad_to = kind_of(device).pad_vocab_to if train.pad_vocab_to is None else train.pad_vocab_to
    return LmLoss(train.lm_loss.value, train.lm_chunk, pad_to, compiled)
