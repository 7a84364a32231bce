"""A run in memory: its parts, and the few numbers that it must remember from step to step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from est_cli.common.errors import CheckpointError
from est_cli.common.rank import Rank
from est_cli.config import Precision, RunConfig, Source
from est_cli.config.resolve import Resolved
from est_cli.data import Corpus, TokenBlocks
from est_cli.data.tokens.token_bytes import token_bytes
from est_cli.distributed import GradientSync, Group
from est_cli.distributed.device import Accelerator, autocast
from est_cli.est import (
    FULL,
    EstHandle,
    Flops,
    FlopsLedger,
    IndexGenerator,
    ModelSpec,
    SamplingScheduler,
    Subnetwork,
    training_flops,
)
from est_cli.est.batch import BatchSchedule
from est_cli.est.sizes import full_sizes
from est_cli.models.lm_loss import Objective
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import Tracker
from est_cli.tracking.names import NAMES, NAMES_OF_BEFORE
from est_cli.tracking.progress import RunProgress
from est_cli.training.feed import Feed
from est_cli.training.health import Health
from est_cli.training.inputs import BatchSource
from est_cli.training.optim import LossScale, Optimizer
from est_cli.training.reading import Reading
from est_cli.training.supply import Supply

if TYPE_CHECKING:
    from est_cli.training.tasks import Tasks

SINCE_FORMAT_1 = (
    "records",
    "loss_scale",
    "good_steps",
    "attention_pairs",
    "tracker_names",
    "passed",
    "flops_passed_over",
    "recent",
)
"""Keys of state.json that older checkpoints do without: their defaults hold there."""

ROWS: dict[str, tuple[type, ...]] = {"passed": (int, int, int), "recent": (int, float, float)}
"""What stands in a row of those keys that are tables."""
MOST = 1 << 48
"""More samples or steps than any run has."""

AT_ONCE = 1024
"""Validation blocks whose bytes are counted at a time."""


@dataclass
class RunState:
    """All that a checkpoint must hold beside weights and moments; everything random is recomputed from the step."""

    step: int = 0
    """Optimizer steps done."""
    last_loss: float | None = None
    rejected_in_a_row: int = 0
    """Steps just before this one whose gradient was not finite."""
    time_s: float = 0.0
    """Wall-clock seconds of the whole run so far, evaluation and saving included."""
    flops_blocks: int = 0
    flops_total: int = 0
    attention_pairs: int = 0
    """Pairs of a query and a key that a head of the complete model has attended to, where documents are apart."""
    num_processes: int = 1
    """Processes that trained it; another number may go on only where it decides nothing that is drawn."""
    micro_batches: dict[str, int] = field(default_factory=dict)
    """Sequences per micro-batch by stage number, in case they were found by `auto`."""
    loss_scale: float = 0.0
    """Of fp16; 0: none yet."""
    good_steps: int = 0
    """Since the loss scale was changed."""
    wandb_run_id: str = ""
    tracker_names: int = NAMES_OF_BEFORE
    """By which rule trackers name its numbers (tracking/names.py): that with which the run began."""
    data_hash: str = ""
    tokenizer_hash: str = ""
    passed: list[list[int]] = field(default_factory=list)
    """See Reading.passed."""
    flops_passed_over: int = 0
    """Of `flops_total`, those of steps that were undone when the run went back."""
    recent: list[list[float]] = field(default_factory=list)
    """[step (0-based), loss, gradient norm] of the last steps, where spikes are looked for."""
    records: dict[str, int] = field(default_factory=dict)
    """How many records of each kind metrics.jsonl has got; empty in the checkpoints of older versions."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any], path: str) -> RunState:
        """Raises CheckpointError where `data` is not what as_json() gives."""
        expected = {field.name for field in fields(cls)}
        data = {name: getattr(cls(), name) for name in SINCE_FORMAT_1} | data
        if set(data) != expected:
            raise CheckpointError(
                f"{path}: state.json has the keys {sorted(data)}, expected {sorted(expected)}; another version of est "
                "wrote it"
            )
        odd = [name for name, value in data.items() if not _like(value, getattr(cls(), name), ROWS.get(name, ()))]
        odd += [] if odd or re.fullmatch(r"[\w-]{0,64}", data["wandb_run_id"], re.ASCII) else ["wandb_run_id"]
        odd += [] if odd or data["tracker_names"] <= NAMES else ["tracker_names"]
        if odd:
            raise CheckpointError(f"{path}: state.json has no proper value for {odd[0]}")
        return cls(**data)


def _like(value: Any, default: Any, row: Sequence[type] = ()) -> bool:
    """Whether `value` can stand where `default` does, the least that a number may be; `row`: of a table."""
    if isinstance(default, list):
        return isinstance(value, list) and all(_is_row(entry, row) for entry in value)
    if isinstance(default, dict):
        return isinstance(value, dict) and all(type(size) is int and size > 0 for size in value.values())
    if default is None:
        return value is None or type(value) is float
    return type(value) is type(default) and bool(value >= default)


def _is_row(entry: Any, kinds: Sequence[type]) -> bool:
    """Whether it has a number of each kind, none below 0."""
    fits = isinstance(entry, list) and [type(number) for number in entry] == list(kinds)
    return fits and all(
        0 <= number < (MOST if kind is int else math.inf) for number, kind in zip(entry, kinds, strict=True)
    )


@dataclass
class Run:
    """Everything that train() works with; build() makes it."""

    resolved: Resolved
    dir: RunDir
    accelerator: Accelerator
    compiled: bool
    """Whether its layers are."""
    rank: Rank
    group: Group
    model: PreTrainedModel
    objective: Objective
    """The model with its loss: what a step calls."""
    gradient_sync: GradientSync
    handle: EstHandle
    health: Health
    optimizer: Optimizer
    loss_scale: LossScale | None
    """Under fp16."""
    generator: IndexGenerator
    corpus: Corpus
    supply: Supply | None
    """Of text that is tokenised while the run goes on."""
    validation_blocks: TokenBlocks
    reading: Reading
    source: BatchSource
    feed: Feed[Any]
    """Makes what `source` gives."""
    micro_batches: dict[int, int]
    """Sequences per forward pass and process, by stage number."""
    ledger: FlopsLedger
    planned: FlopsLedger
    state: RunState
    tracker: Tracker
    tracker_at: Callable[[RunState], Tracker]
    """Opens it as the run stands after a checkpoint of this state."""
    progress: RunProgress
    tasks: Tasks | None = None
    """Of train.eval_tasks."""

    @property
    def spec(self) -> ModelSpec:
        return self.handle.spec

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    @property
    def precision(self) -> Precision:
        return precision_of(self.config)

    def autocast(self) -> AbstractContextManager[None]:
        """Inside of it a forward pass computes in the run's precision."""
        return autocast(self.accelerator.device, self.precision)

    @property
    def scheduler(self) -> SamplingScheduler:
        return self.resolved.scheduler

    @property
    def batch(self) -> BatchSchedule:
        """Sequences of each step, over all processes, and their length."""
        return self.resolved.batch

    def totals(self) -> dict[str, Any]:
        """What the run has used and saved so far: in the record of each step and in summary.json."""
        return {
            "flops": self.ledger.used.total,
            "flops_dense": self.ledger.dense.total,
            "flops_saved_pct_blocks": self.ledger.saved_pct("blocks"),
            "flops_saved_pct_total": self.ledger.saved_pct("total"),
        }

    def micro_batch_at(self, step: int) -> int:
        return self.micro_batches[self.scheduler.stage_at(step)]

    @property
    def in_use(self) -> Subnetwork:
        """The model as it is now: complete, or of a model that still grows the layers that it has so far."""
        rates = self.scheduler.rates_at(max(0, self.state.step - 1))
        return self.generator.draw(0, rates) if rates.layers == "first" else FULL

    def bits_per_byte(self, loss: float) -> float | None:
        """A validation loss, in nats per token, by the bytes of the validation text; None where they are not known."""
        share = self._bytes_per_prediction
        return None if share is None or not math.isfinite(loss) else loss / math.log(2) / share

    @cached_property
    def _bytes_per_prediction(self) -> float | None:
        """Of what train.eval_tokens reads, over all processes."""
        source, blocks = self.config.dataset.source, self.validation_blocks
        of_token = None if source is Source.tokens else token_bytes(self.corpus.tokenizer)
        if of_token is None:
            return None
        count, total, end = AT_ONCE, 0, self._validated(self.config.train.eval_tokens)
        for begin in range(0, end, count):
            total += int(of_token[blocks.take(np.arange(begin, min(begin + count, end)))[:, 1:].numpy()].sum())
        return total / (end * (blocks.seq_len - 1)) or None

    def _validated(self, tokens: int | None) -> int:
        """Blocks of the validation set that so many tokens are."""
        blocks = self.validation_blocks
        return blocks.num_blocks if tokens is None else min(max(1, tokens // blocks.seq_len), blocks.num_blocks)

    def validation_batches(self, tokens: int | None) -> Iterator[Tensor]:
        """(B, T) int64 blocks from the start of the validation set, of so many `tokens` at most, one block at
        least (None: all), over all processes, which get as many batches each; a batch may be empty (B = 0).

        In pieces as large as the last stage's micro-batches, since evaluation runs the complete model as that does.
        """
        blocks, rank, end = self.validation_blocks, self.rank, self._validated(tokens)
        last = max(self.micro_batches)
        fits = max(1, self.micro_batches[last] * self.batch.of_stage(last).seq_len // blocks.seq_len)
        size = fits * rank.world_size
        for begin in range(0, end, size):
            yield blocks.take(np.arange(begin, min(end, begin + size))[rank.rank :: rank.world_size])


def precision_of(config: RunConfig) -> Precision:
    """Of a run that was settled (see parts.settled)."""
    precision = config.train.precision
    assert precision is not None, "the precision is settled before anything is built"
    return precision


def ledger_at(state: RunState, spec: ModelSpec, batch: BatchSchedule, apart: bool) -> FlopsLedger:
    """The ledger as it stood when `state` was saved; `apart`: whether documents of a sequence are."""
    full = full_sizes(spec)
    if apart:
        dense = training_flops(spec, full, 1, batch.tokens_before(state.step), state.attention_pairs)
    else:
        costs = (
            training_flops(spec, full, steps * step.sequences, step.seq_len) for steps, step in batch.spans(state.step)
        )
        dense = sum(costs, Flops())
    return FlopsLedger(Flops(state.flops_blocks, state.flops_total), dense)
