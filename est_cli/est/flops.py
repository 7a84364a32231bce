"""FLOPs of a subnetwork and the ledger of a run. Plain integers, no torch.

A product of an (m, k) with a (k, n) matrix is 2*m*k*n FLOPs; training is 3 times forward (the backward pass has two
products for each forward one). Two conventions, always named:

- `blocks`: the projections (and convolutions) inside the layers, the paper's convention.
- `total`: also the LM head over every position, or over those that the loss is the mean of where they are drawn
  (`p_t`), and the two attention products, counted full T x T; of sequences whose
  documents do not see each other, full over each document (the sum of the squares of their lengths).

Not counted: the scan of state-space models, norms, activations, softmax, embeddings look-ups, the optimizer,
recomputation under activation checkpointing, evaluation. The count follows from the model's structure and the sizes
that really ran, so it does not depend on the attention backend, fused losses or compilation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .by_sequence import step_counts
from .kept import varies
from .schedule import SamplingScheduler
from .sizes import (
    MicroBatchSplit,
    SampleSizes,
    SamplingOptions,
    SequenceCounts,
    full_sizes,
    position_count,
    scheduled_sizes,
)
from .spec import Kept, ModelSpec


@dataclass(frozen=True)
class Flops:
    """An amount of work in both conventions (FLOPs, not FLOP/s)."""

    blocks: int = 0
    total: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.blocks + other.blocks, self.total + other.total)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.blocks * times, self.total * times)


@dataclass
class FlopsLedger:
    """What a run has used, and what a dense run would have used by now."""

    used: Flops = Flops()
    dense: Flops = Flops()

    def add(self, used: Flops, dense: Flops) -> None:
        self.used += used
        self.dense += dense

    def saved_pct(self, convention: str) -> float:
        """Share of the dense FLOPs that was saved, 0-100; `convention` is blocks or total."""
        dense = getattr(self.dense, convention)
        return 100.0 * (dense - getattr(self.used, convention)) / dense if dense else 0.0


def forward_flops(spec: ModelSpec, sizes: SampleSizes, batch: int, seq_len: int, pairs: int | None = None) -> Flops:
    """FLOPs of one forward pass over `batch` sequences of `seq_len` tokens.

    `pairs`: of a query and a key that each head multiplies, over all sequences; None: seq_len * seq_len in each.
    """
    tokens = batch * seq_len
    pairs = tokens * seq_len if pairs is None else pairs
    products = sum(layers * _products(spec, kept) for kept, layers in sizes.by_layers)
    attention = 2 * (2 * pairs * sizes.units.heads * spec.head_dim) if spec.attention else 0
    lm_head = 2 * batch * position_count(sizes.p_t, seq_len) * spec.hidden_size * spec.vocab_size
    blocks = 2 * tokens * products
    return Flops(blocks, blocks + attention + lm_head)


def _products(spec: ModelSpec, kept: Kept) -> int:
    """Multiply-adds of the projections of a layer per token."""
    return sum(held.products * held.kept_entries(spec.full, kept) for held in spec.sampled)


def training_flops(spec: ModelSpec, sizes: SampleSizes, batch: int, seq_len: int, pairs: int | None = None) -> Flops:
    """FLOPs of one forward and backward pass: 3 times forward."""
    return forward_flops(spec, sizes, batch, seq_len, pairs) * 3


def flops_of(spec: ModelSpec, ran: SequenceCounts, seq_len: int, pairs: Sequence[int] | None = None) -> Flops:
    """What the training of sequences of `seq_len` tokens has cost; `pairs`: see forward_flops, for each of `ran`."""
    each = [None] * len(ran) if pairs is None else pairs
    costs = (training_flops(spec, sizes, n, seq_len, own) for (sizes, n), own in zip(ran, each, strict=True))
    return sum(costs, Flops())


def planned_counts(
    spec: ModelSpec,
    scheduler: SamplingScheduler,
    options: SamplingOptions,
    batch: int | Sequence[int],
    seed: int = 0,
    splits: Mapping[int, MicroBatchSplit] | None = None,
) -> dict[int, SequenceCounts]:
    """What a whole run of `scheduler` will run, by the number of the stage.

    `batch`: sequences per optimizer step, one number or one for each stage.

    Where sizes vary, the draws of `seed` are replayed; `splits` says by stage how a step is split (None: not at all),
    which counts there under redraw=forward and ranks=independent, and under layers_by=sequence.
    """
    planned: dict[int, SequenceCounts] = {}
    sequences, steps = of_each_stage(batch, len(scheduler.stages)), scheduler.stage_steps()
    for number in scheduled_sizes(spec, scheduler, options):
        rates = scheduler.stages[number - 1].rates
        split = (splits or {}).get(number, MicroBatchSplit((sequences[number - 1],)))
        if varies(spec, rates, options):
            from .replay import replayed  # torch, which a plan of fixed sizes does without

            planned[number] = replayed(spec, scheduler, options, seed, number, split)
        else:
            ran = step_counts(spec, rates, options, split)
            planned[number] = tuple((sizes, count * steps[number - 1]) for sizes, count in ran)
    return planned


def planned_ledger(
    spec: ModelSpec,
    scheduler: SamplingScheduler,
    options: SamplingOptions,
    batch: int | Sequence[int],
    seq_len: int | Sequence[int],
    seed: int = 0,
    splits: Mapping[int, MicroBatchSplit] | None = None,
) -> FlopsLedger:
    """The ledger that a finished run of `scheduler` will show (see planned_counts); `seq_len`: as `batch`."""
    planned = planned_counts(spec, scheduler, options, batch, seed, splits)
    return ledger_of(spec, planned, of_each_stage(seq_len, len(scheduler.stages)))


def ledger_of(spec: ModelSpec, planned: Mapping[int, SequenceCounts], seq_lens: Sequence[int]) -> FlopsLedger:
    """The ledger of a run that has run all of `planned`, by the number of the stage; `seq_lens`: of each stage."""
    ledger, full = FlopsLedger(), full_sizes(spec)
    for number, ran in planned.items():
        seq_len, sequences = seq_lens[number - 1], sum(count for _, count in ran)
        ledger.add(flops_of(spec, ran, seq_len), training_flops(spec, full, sequences, seq_len))
    return ledger


def of_each_stage(value: int | Sequence[int], stages: int) -> Sequence[int]:
    """One number for each of so many stages, of one for all or a list that has them."""
    return [value] * stages if isinstance(value, int) else value
