"""How many heads, columns and layers a sampling rate means for a model. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from .schedule import SamplingRates, SamplingScheduler
from .spec import Kept, ModelSpec

CHOICES = {
    "redraw": ("step", "forward"),
    "ranks": ("same", "independent"),
    "cover": ("independent", "balanced"),
    "layers_by": ("batch", "sequence"),
    "kv_groups": ("whole", "within"),
    "layer_scale": ("none", "inverse"),
    "unit_scale": ("inverse", "sqrt", "none"),
}
"""The values of those options of SamplingOptions that are words."""


@dataclass(frozen=True)
class SamplingOptions:
    """The decisions that the paper leaves open (docs/method.md says what each one means)."""

    redraw: str = "step"
    """`step`: one draw per optimizer step; `forward`: each micro-batch draws anew."""
    ranks: str = "same"
    """`same`: all processes of a run draw the same; `independent`: each draws its own."""
    cover: str = "independent"
    """How the draws of a step go together: each by itself, or `balanced`, every unit in as many of them as every other,
    or in one more: a layer in those of the step, a head or column in those that its layer runs in."""
    layers_by: str = "batch"
    """`batch`: the sequences of a micro-batch leave out the same layers; `sequence`: each leaves out its own, and every
    layer runs as many of them."""
    per_layer: bool = True
    """Each layer draws its own heads and columns; False: one draw shared by all layers."""
    kv_groups: str = "whole"
    """`whole`: whole KV groups with their query heads; `within`: as many query heads from each group, all KV heads."""
    layer_scale: str = "none"
    """`inverse`: residual branches are multiplied by 1/p_L while layers are sampled."""
    unit_scale: str = "inverse"
    """What drawn heads and columns are multiplied by where k of N are: `inverse` N/k, which keeps the output's mean
    (the paper's 1/p); `sqrt` the root of that, which keeps its variance where units are independent; `none` 1."""
    keep_ends: bool = False
    """The first and the last layer always run (as in RaPTr)."""
    multiple_of: int | None = None
    """What the number of columns that run, if not all do, is a multiple of; None: 8 where the model has a multiple of
    8 and at least 64 of them, else 1. Tensor cores want rows of 16 bytes, 8 numbers of 16 bits."""

    def __post_init__(self) -> None:
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"sampling.{name}: {getattr(self, name)!r} is not one of {', '.join(values)}")
        if self.cover == "balanced" and self.redraw == "step" and self.ranks == "same":
            raise ValueError(
                "sampling.cover: balanced shares units out among the draws of a step, and there is one; use "
                "sampling.redraw=forward or sampling.ranks=independent"
            )


DEFAULTS = SamplingOptions()


@dataclass(frozen=True)
class SampleSizes:
    """How many units of each kind run in a layer, and how many layers run."""

    heads: int
    kv_heads: int
    columns: int
    layers: int

    @property
    def kept(self) -> Kept:
        return Kept(self.heads, self.kv_heads, self.columns)


@dataclass(frozen=True)
class MicroBatchSplit:
    """How a step is split into micro-batches: what is drawn for each may be of another size."""

    micro_batches: tuple[int, ...]
    """Sequences of each micro-step, over all processes."""
    world_size: int = 1
    """Processes, each with as many of them."""


class StepDraw(NamedTuple):
    """One of the draws of a step."""

    micro_step: int
    rank: int
    sequences: int
    """That run what is drawn."""
    micro_batch: int
    """Sequences of a forward pass of one process."""


def draws_of(options: SamplingOptions, split: MicroBatchSplit) -> list[StepDraw]:
    """The draws of a step that is cut as `split` says; under layers_by=sequence each micro-batch has its own."""
    apart = options.redraw == "forward" or options.layers_by == "sequence"
    micro_batches = split.micro_batches if apart else (sum(split.micro_batches),)
    ranks, world_size = split.world_size if options.ranks == "independent" else 1, split.world_size
    return [
        StepDraw(at, rank, count // ranks, count // world_size)
        for at, count in enumerate(micro_batches)
        for rank in range(ranks)
    ]


def sample_size(p: float, n: int) -> int:
    """Units that rate `p` keeps of `n`: p*n rounded half up, at least 1 (of 0: 0). Scaling uses the realised k/n."""
    return min(n, max(1, math.floor(p * n + 0.5)))


def column_size(p: float, n: int, multiple_of: int | None) -> int:
    """MLP columns that rate `p` keeps of `n`: the multiple nearest to p*n (see SamplingOptions), at least one.

    Raises ValueError where the model has fewer.
    """
    step = (8 if n % 8 == 0 and n >= 64 else 1) if multiple_of is None else multiple_of
    if p == 1.0 or n == 0:
        return n
    if step > n:
        raise ValueError(f"sampling.multiple_of: {step} is more than the {n} MLP columns of the model")
    return step * sample_size(p * n / (step * (n // step)), n // step)


def full_sizes(spec: ModelSpec) -> SampleSizes:
    return SampleSizes(*spec.full, spec.num_layers)


def sample_sizes(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> SampleSizes:
    """Sizes of the subnetworks that `rates` gives; of random ones the largest. Raises ValueError where a choice would
    sample nothing, or does not fit the model."""
    heads, kv_heads = _head_sizes(spec, rates.p_h, options.kv_groups)
    columns = column_size(rates.p_m, spec.mlp_size, options.multiple_of)
    return SampleSizes(heads, kv_heads, columns, _layer_size(spec.num_layers, rates, options))


def scheduled_sizes(spec: ModelSpec, scheduler: SamplingScheduler, options: SamplingOptions) -> dict[int, SampleSizes]:
    """sample_sizes() by the number of the stage, for those that have steps: others may have rates that do not fit.

    Raises ValueError as it does, and where a model that should grow does not.
    """
    stages = {number: scheduler.stages[number - 1].rates for number in scheduler.occupied()}
    sizes = {number: sample_sizes(spec, rates, options) for number, rates in stages.items()}
    for before, after in pairwise(stages):
        if stages[before].layers == "first" and sizes[before].layers >= sizes[after].layers:
            raise ValueError(
                f"stage.depths: stages {before} and {after} have {sizes[before].layers} and {sizes[after].layers} of "
                f"the model's {spec.num_layers} layers; each stage must have more than the one before it"
            )
    return sizes


SequenceCounts = Sequence[tuple[SampleSizes, int]]
"""What ran: sizes, and the number of sequences that went through subnetworks of these sizes."""


@dataclass(frozen=True)
class RealisedRates:
    """The rates k/N that sizes amount to, a mean where they differ: what is logged."""

    p_h: float
    p_m: float
    p_l: float


def realised_rates(spec: ModelSpec, ran: SequenceCounts) -> RealisedRates:
    """The realised rates of an average sequence."""
    sequences = sum(count for _, count in ran)

    def share(size: Callable[[SampleSizes], int], n: int) -> float:
        return sum(size(sizes) * count for sizes, count in ran) / (n * sequences) if n else 1.0

    return RealisedRates(
        share(lambda sizes: sizes.heads, spec.num_heads),
        share(lambda sizes: sizes.columns, spec.mlp_size),
        share(lambda sizes: sizes.layers, spec.num_layers),
    )


def _layer_size(n: int, rates: SamplingRates, options: SamplingOptions) -> int:
    if rates.random:
        if options.cover == "balanced":
            raise ValueError("sampling.cover: balanced needs as many layers in each draw, not some by chance")
        if options.layers_by == "sequence":
            raise ValueError("sampling.layers_by: sequence needs as many sequences in each layer, not some by chance")
        return n
    layers = sample_size(rates.p_l, n) if rates.num_layers is None else rates.num_layers
    if layers > n:
        raise ValueError(f"stage.depths: {layers} layers are more than the model's {n}")
    if rates.layers == "path" and layers < min(2, n):
        raise ValueError(
            f"stage.depths: a path of {layers} of {n} layers is too short; it holds the first and the last one"
        )
    if rates.layers == "sample" and options.keep_ends and rates.p_l < 1.0 and layers < 2:
        raise ValueError(
            f"sampling.keep_ends: p_l = {rates.p_l} of {n} layers keeps only {layers}, but the first and the last are "
            "2; raise stage.p_l or set sampling.keep_ends=false"
        )
    return layers


def _head_sizes(spec: ModelSpec, p_h: float, kv_groups: str) -> tuple[int, int]:
    """(query heads, KV heads) that run."""
    if p_h == 1.0:
        return spec.num_heads, spec.num_kv_heads
    if kv_groups == "whole":
        if spec.num_kv_heads == 1:
            raise ValueError(
                "sampling.kv_groups: `whole` cannot sample a model with one KV head; use sampling.kv_groups=within"
            )
        groups = sample_size(p_h, spec.num_kv_heads)
        return groups * spec.group_size, groups
    if spec.group_size == 1:
        raise ValueError(
            "sampling.kv_groups: `within` cannot sample groups of one query head; use sampling.kv_groups=whole"
        )
    if not spec.splits_groups:
        raise ValueError(
            f'sampling.kv_groups: `within` leaves out query heads of a group, and nothing in {spec.family} has "head" '
            'on its "out" side, so that they are computed as whole groups; use sampling.kv_groups=whole'
        )
    return spec.num_kv_heads * sample_size(p_h, spec.group_size), spec.num_kv_heads
