"""What a step trains on: its tokens, and the subnetworks that are drawn for them; made ahead of it (feed.py).

B sequences of T tokens in a step, over all processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from est_cli.common.rank import Rank
from est_cli.config.micro_batch import pieces
from est_cli.data import BlockOrder, TokenBlocks
from est_cli.data.packing import attention_pairs
from est_cli.data.parts import PartOrder
from est_cli.distributed import StepPlan
from est_cli.est import IndexGenerator, SamplingRates, SamplingScheduler, Subnetwork
from est_cli.est.by_sequence import draws_by_sequence
from est_cli.est.positions import draw_positions
from est_cli.est.sizes import SampleSizes, SequenceCounts
from est_cli.est.subnetwork import sizes_of_each
from est_cli.training.reading import Reading


@dataclass(frozen=True)
class StepInputs:
    """On the CPU; what is sent to a GPU in pinned memory."""

    tokens: Tensor
    """(sequences of the step, T) int64, of this process."""
    plan: StepPlan
    digest: int = 0
    """Of all subnetworks that the step runs anywhere; 0 where nobody asks."""
    ran: SequenceCounts = ()
    """What the step runs, over all processes."""
    pairs: tuple[int, ...] | None = None
    """For each of `ran`, the pairs that a head attends to (see attention_pairs); None: all of T x T."""
    drawn: Tensor | None = None
    """(sequences of the step, k) int64, of this process: the positions whose predictions count; None: all."""


@dataclass(frozen=True)
class BatchSource:
    """Composes the inputs of a step: the next of the shuffled blocks, cut into its sequences, and what is drawn."""

    scheduler: SamplingScheduler
    reading: Reading
    """Which blocks these are, and how they are cut."""
    blocks: TokenBlocks | PartOrder
    order: BlockOrder | PartOrder
    generator: IndexGenerator
    micro_batches: dict[int, int]
    """Sequences per forward pass and process, by stage number; may change until the first step is made."""
    rank: Rank
    pinned: bool
    """Whether the tokens go to a GPU."""
    end_of_text: int | None = None
    """What ends documents that do not see each other; None: all see all before them."""

    def inputs_of(self, step: int) -> StepInputs:
        micro_batch = self.micro_batches[self.scheduler.stage_at(step)]
        reading, batch, rates = self.reading, self.reading.batch.at(step), self.scheduler.rates_at(step)
        samples = self.order.blocks(reading.first_sample(step), reading.samples_at(step))
        own = own_samples(batch.sequences, micro_batch, self.rank)
        tokens, of_each = self._read(samples, own, batch.seq_len)
        drawn = draw_positions(self.generator.seed, step, torch.from_numpy(own), batch.seq_len, rates.p_t)
        sequences = pieces(batch.sequences, micro_batch, self.rank.world_size)
        plan = plan_step(self.generator, step, rates, sequences, self.rank, of_each)
        return StepInputs(self._pinned(tokens), *plan, drawn=None if drawn is None else self._pinned(drawn))

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.pinned else tensor

    def _read(
        self, samples: NDArray[np.int64], own: NDArray[np.int64], seq_len: int
    ) -> tuple[Tensor, NDArray[np.int64] | None]:
        """The tokens of this process's `own` sequences, and where documents are apart the pairs of all of them.

        `samples` are cut into sequences of `seq_len`. The pairs every process counts for itself, so that all have the
        same ledger: integers, and nothing is sent.
        """
        cut = self.reading.batch.block // seq_len
        if self.end_of_text is None and cut == 1:
            return self.blocks.take(samples[own]), None
        if self.end_of_text is None:
            needed, row = np.unique(own // cut, return_inverse=True)
            return self.blocks.take(samples[needed]).view(-1, seq_len)[row * cut + own % cut], None
        tokens = self.blocks.take(samples).view(-1, seq_len)
        return tokens[own], attention_pairs(tokens, self.end_of_text).numpy()


def own_samples(batch: int, micro_batch: int, rank: Rank) -> np.ndarray:
    """Which of a step's `batch` samples this process takes, int64 of shape (batch / world size,).

    Micro-step j of all processes together reads the j-th piece of the step: W processes with micro-batches of b
    sequences do what one process does with W * b.
    """
    sequences = pieces(batch, micro_batch, rank.world_size)
    return np.concatenate(shares(np.arange(batch), sequences, rank.world_size)[rank.rank])


def shares(samples: NDArray[np.int64], sequences: Sequence[int], parts: int) -> list[list[NDArray[np.int64]]]:
    """For each of so many equal `parts` of all micro-steps what it has of `samples`, micro-step by micro-step."""
    steps = [step.reshape(parts, -1) for step in np.split(samples, np.cumsum(sequences)[:-1])]
    return [[step[part] for step in steps] for part in range(parts)]


def plan_step(
    generator: IndexGenerator,
    step: int,
    rates: SamplingRates,
    sequences: Sequence[int],
    rank: Rank,
    pairs: NDArray[np.int64] | None = None,
) -> tuple[StepPlan, int, SequenceCounts, tuple[int, ...] | None]:
    """What a step runs in this process, a digest of what it runs anywhere (0 for one process: nobody asks), how much
    that is, and its attention pairs. `sequences`: of each micro-step, over all processes; `pairs`: of each sequence."""
    options, micro_steps = generator.options, len(sequences)
    own_sizes = [count // rank.world_size for count in sequences]
    uneven = len(set(own_sizes)) > 1 and draws_by_sequence(rates, options)
    draws = micro_steps if options.redraw == "forward" or uneven else 1

    def drawn_by(number: int) -> tuple[Subnetwork, ...]:
        return tuple(generator.draw(step, rates, at, number, own_sizes[at]) for at in range(draws))

    own = drawn_by(rank.rank)
    apart = options.ranks == "independent" and rank.world_size > 1
    everyone = [drawn_by(number) for number in range(rank.world_size)] if apart else [own]
    counts = count_sequences(generator, everyone, sequences)
    ran = tuple((replace(sizes, p_t=rates.p_t), count) for sizes, count in counts)
    attended = None if pairs is None else count_pairs(generator, everyone, sequences, pairs)
    if rank.world_size == 1:
        return StepPlan(own, micro_steps, None), 0, ran, attended
    anywhere = [subnetwork for drawn in everyone for subnetwork in drawn]
    digest = crc32(repr([subnetwork.checksum() for subnetwork in anywhere]).encode())
    if len(set(anywhere)) == 1:
        return StepPlan(own, micro_steps, None), digest, ran, attended
    every_layer = range(generator.spec.num_layers)
    running = {n for drawn in anywhere for n in (every_layer if drawn.layer_idx is None else drawn.layer_idx)}
    return StepPlan(own, micro_steps, frozenset(running), anywhere), digest, ran, attended


def count_sequences(
    generator: IndexGenerator, everyone: Sequence[Sequence[Subnetwork]], sequences: Sequence[int]
) -> SequenceCounts:
    """Count the sequences that a step sends through subnetworks of each size.

    `everyone`: by process (one entry, where all run the same) what it runs, one for all micro-steps or one for each.
    """
    counts: Counter[SampleSizes] = Counter()
    for drawn in everyone:
        of_each = sequences if len(drawn) > 1 else (sum(sequences),)
        for subnetwork, count in zip(drawn, of_each, strict=True):
            each = sizes_of_each(generator.spec, subnetwork)
            for sizes, of_them in Counter(each).items():
                counts[sizes] += count // len(everyone) * of_them // len(each)
    return tuple(counts.items())


def count_pairs(
    generator: IndexGenerator,
    everyone: Sequence[Sequence[Subnetwork]],
    sequences: Sequence[int],
    pairs: NDArray[np.int64],
) -> tuple[int, ...]:
    """As count_sequences, in its order: the sum of `pairs`, one for each of a step's sequences in their order."""
    counts: Counter[SampleSizes] = Counter()
    for drawn, own in zip(everyone, shares(pairs, sequences, len(everyone)), strict=True):
        of_each = own if len(drawn) > 1 else (np.concatenate(own),)
        for subnetwork, here in zip(drawn, of_each, strict=True):
            each = sizes_of_each(generator.spec, subnetwork)
            for sizes, found in zip(each, here.reshape(-1, len(each)).sum(0).tolist(), strict=True):
                counts[sizes] += found
    return tuple(counts.values())
