"""What a run with random sizes will run: its seeded draws, made once more for a plan."""

from __future__ import annotations

from dataclasses import replace

import torch

from .index import IndexGenerator
from .schedule import SamplingScheduler
from .sizes import MicroBatchSplit, SamplingOptions, SequenceCounts, draws_of, sample_sizes
from .spec import ModelSpec

_AT_ONCE = 4096
"""Steps that are drawn together: enough to be fast, and few enough for the memory of any model's layers."""
_AT_MOST = 1 << 20
"""Draws that are made again for a stage, seconds of work; in a longer one some of its steps stand for all."""


def replayed(
    spec: ModelSpec,
    scheduler: SamplingScheduler,
    options: SamplingOptions,
    seed: int,
    number: int,
    split: MicroBatchSplit,
) -> SequenceCounts:
    """What stage `number`, whose rates are random, will run; of more than a million draws an estimate.

    The estimate is the count over evenly spaced steps, each standing for those up to the next.
    """
    generator, stage = IndexGenerator(spec, seed, options), scheduler.stages[number - 1]
    first, draws = stage.until_step - scheduler.stage_steps()[number - 1], draws_of(options, split)
    apart = 1 + (stage.until_step - first) * len(draws) // _AT_MOST
    sequences = torch.zeros(spec.num_layers + 1, dtype=torch.int64)  # by how many layers they went through
    for begin in range(first, stage.until_step, _AT_ONCE * apart):
        steps = range(begin, min(begin + _AT_ONCE * apart, stage.until_step), apart)
        stands_for = torch.tensor([min(apart, stage.until_step - step) for step in steps])
        for draw in draws:
            layers = generator.layer_counts(steps, stage, draw.micro_step, draw.rank)
            sequences.index_add_(0, layers, draw.sequences * stands_for)
    sizes = sample_sizes(spec, stage.rates, options)
    return tuple((replace(sizes, layers=layers), count) for layers, count in enumerate(sequences.tolist()) if count)
