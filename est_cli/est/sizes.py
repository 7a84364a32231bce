"""The options of sampling, and how many heads, columns and layers run. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import le
from typing import NamedTuple

from .kept import kept_units, largest_layers, layer_chances, sample_size
from .protected import ENTRY_WORDS, is_entry
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
    protect: tuple[int | str, ...] = ()
    """What always runs complete: 0 is everything in the first layer, "heads:-1" the heads of the last one, "layers:0-3"
    has these layers always run; see protected.py."""
    multiple_of: int | None = None
    """What the number of columns that run, if not all do, is a multiple of; None: 8 where the model has a multiple of
    8 and at least 64 of them, else 1. Tensor cores want rows of 16 bytes, 8 numbers of 16 bits."""

    def __post_init__(self) -> None:
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise ValueError(f"sampling.{name}: {getattr(self, name)!r} is not one of {', '.join(values)}")
        for entry in self.protect:
            if not is_entry(entry):
                raise ValueError(f"sampling.protect: {entry!r} is not {ENTRY_WORDS}")
        self._refuse_together()

    def _refuse_together(self) -> None:
        if self.cover == "balanced" and self.redraw == "step" and self.ranks == "same":
            raise ValueError(
                "sampling.cover: balanced shares units out among the draws of a step, and there is one; use "
                "sampling.redraw=forward or sampling.ranks=independent"
            )
        if self.layers_by == "sequence" and self.protect:
            raise ValueError(
                "sampling.protect: does not go with sampling.layers_by=sequence, which counts layers that are alike; "
                "use sampling.keep_ends=true, or layers_by=batch"
            )


DEFAULTS = SamplingOptions()


@dataclass(frozen=True)
class SampleSizes:
    """How many units of each kind run in a layer (where layers differ, at most), and how many layers run."""

    heads: int
    kv_heads: int
    columns: int
    layers: int
    each: tuple[Kept, ...] = ()
    """Where layers differ, what runs in each of those that run, the most first."""
    p_t: float = 1.0
    """The share of its predictions that a sequence's loss is the mean of: how many it is depends on the length."""

    @staticmethod
    def of_layers(kept: Sequence[Kept], running: Collection[int]) -> SampleSizes:
        """Where the layers `running` run, each with what `kept` has of it; equal sizes are equal objects."""
        each = tuple(sorted((kept[layer] for layer in running), reverse=True))
        heads, kv_heads, columns = map(max, zip(*(each or kept[:1]), strict=True))
        return SampleSizes(heads, kv_heads, columns, len(each), each if len(set(each)) > 1 else ())

    @property
    def kept(self) -> Kept:
        """Of a layer; where layers differ, the most of each kind."""
        return Kept(self.heads, self.kv_heads, self.columns)

    @property
    def by_layers(self) -> Sequence[tuple[Kept, int]]:
        """What runs in a layer, and in how many of them."""
        if self.each:
            return tuple(Counter(self.each).items())
        return ((self.kept, self.layers),)

    @property
    def units(self) -> Kept:
        """Units of each kind in all layers together."""
        sums = ([getattr(kept, kind) * layers for kept, layers in self.by_layers] for kind in Kept._fields)
        return Kept(*map(sum, sums))

    def fits_into(self, other: SampleSizes) -> bool:
        """Whether each layer that runs has no more of any kind than one of its own in `other`, nor the LM head."""
        kinds = ((self._sorted(kind), other._sorted(kind)) for kind in range(len(Kept._fields)))
        return (
            self.layers <= other.layers
            and self.p_t <= other.p_t
            and all(all(map(le, mine, theirs)) for mine, theirs in kinds)
        )

    def _sorted(self, kind: int) -> list[int]:
        counts = [kept[kind] for kept, layers in self.by_layers for _ in range(layers)]
        return sorted(counts, reverse=True)


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


def position_count(p_t: float, seq_len: int) -> int:
    """Positions of a sequence that the LM head sees: at the rate 1 all, else the share of those that predict a token,
    which all but the last one do."""
    return seq_len if p_t == 1.0 else sample_size(p_t, seq_len - 1)


def full_sizes(spec: ModelSpec) -> SampleSizes:
    return SampleSizes(*spec.full, spec.num_layers)


def sample_sizes(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> SampleSizes:
    """Sizes of the subnetworks that `rates` gives; of varying ones the largest. Raises ValueError where a choice would
    sample nothing, or does not fit the model."""
    kept = kept_units(spec, rates, options)
    layer_chances(spec, rates, options)  # refuses
    return replace(SampleSizes.of_layers(kept, largest_layers(spec, rates, options)), p_t=rates.p_t)


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
    passes = sum(sizes.layers * count for sizes, count in ran)

    def share(kind: str, n: int) -> float:
        return sum(getattr(sizes.units, kind) * count for sizes, count in ran) / (n * passes) if n and passes else 1.0

    layers = passes / (spec.num_layers * sequences)
    return RealisedRates(share("heads", spec.num_heads), share("columns", spec.mlp_size), layers)


def realised_p_t(ran: SequenceCounts, seq_len: int) -> float:
    """The realised share of the predictions of sequences of `seq_len` tokens that their loss is the mean of."""
    most, sequences = seq_len - 1, sum(count for _, count in ran)
    drawn = sum(min(position_count(sizes.p_t, seq_len), most) * count for sizes, count in ran)
    return drawn / (most * sequences)
