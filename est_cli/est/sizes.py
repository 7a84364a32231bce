"""How many heads, columns and layers a sampling rate means for a model. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import le
from typing import NamedTuple

from .protected import ENTRY_WORDS, Protected, is_entry, protected
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


def sample_size(p: float, n: int) -> int:
    """Units that rate `p` keeps of `n`: p*n rounded half up, at least 1 (of 0: 0). Scaling uses the realised k/n."""
    return min(n, max(1, math.floor(p * n + 0.5)))


def position_count(p_t: float, seq_len: int) -> int:
    """Positions of a sequence that the LM head sees: at the rate 1 all, else the share of those that predict a token,
    which all but the last one do."""
    return seq_len if p_t == 1.0 else sample_size(p_t, seq_len - 1)


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
    """Sizes of the subnetworks that `rates` gives; of varying ones the largest. Raises ValueError where a choice would
    sample nothing, or does not fit the model."""
    kept = kept_units(spec, rates, options)
    return replace(SampleSizes.of_layers(kept, largest_layers(spec, rates, options)), p_t=rates.p_t)


def kept_units(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> tuple[Kept, ...]:
    """What runs in each layer, if it runs. Raises ValueError as sample_sizes() does."""
    heads, kv_heads = _head_sizes(spec, rates.p_h, options.kv_groups)
    columns = column_size(rates.p_m, spec.mlp_size, options.multiple_of)
    if not options.protect:
        return (Kept(heads, kv_heads, columns),) * spec.num_layers
    always = protected_in(spec, options)
    for kind, rate, whole in (("heads", "p_h", always.heads), ("columns", "p_m", always.columns)):
        if getattr(rates, rate) < 1.0 and len(whole) == spec.num_layers:
            raise ValueError(
                f"sampling.protect: the {kind} of all {spec.num_layers} layers are protected, so stage.{rate} = "
                f"{getattr(rates, rate)} samples none; set it to 1 or protect fewer layers"
            )
    return tuple(
        Kept(
            *(spec.full[:2] if layer in always.heads else (heads, kv_heads)),
            spec.mlp_size if layer in always.columns else columns,
        )
        for layer in range(spec.num_layers)
    )


def protected_in(spec: ModelSpec, options: SamplingOptions) -> Protected:
    """What always runs complete. Raises ValueError where the model has no such layer."""
    return protected(options.protect, spec.num_layers, options.keep_ends)


def always_run(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> frozenset[int]:
    """The layers that are in every draw of some of the layers."""
    return frozenset({0, spec.num_layers - 1}) if rates.layers == "path" else protected_in(spec, options).layers


def largest_layers(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> list[int]:
    """The layers of a draw that has the most parameters, in order."""
    k, n = layer_size(spec, rates, options), spec.num_layers
    if k == n or rates.layers == "first":
        return list(range(k))
    kept, always = kept_units(spec, rates, options), always_run(spec, rates, options)
    size = {units: sum(held.kept_entries(spec.full, units) for held in spec.sampled) for units in set(kept)}
    return sorted(sorted(range(n), key=lambda layer: (layer not in always, -size[kept[layer]]))[:k])


def varies(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> bool:
    """Whether draws at these rates differ in size: in how many layers run, or since not all of them keep as much."""
    if rates.random:
        return True
    k, n = layer_size(spec, rates, options), spec.num_layers
    if k == n or rates.layers == "first" or not options.protect:
        return False
    kept, always = kept_units(spec, rates, options), always_run(spec, rates, options)
    return len(always) < k and len({kept[layer] for layer in range(n) if layer not in always}) > 1


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


def layer_size(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions) -> int:
    """How many layers run; of a random number the most. Raises ValueError as sample_sizes() does."""
    n = spec.num_layers
    if rates.random:
        if options.protect and len(protected_in(spec, options).layers) == n:
            raise ValueError(f"sampling.protect: all {n} layers are protected, so none is sampled; protect fewer")
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
    if rates.layers == "sample" and rates.p_l < 1.0:
        _refuse_too_few(n, rates.p_l, layers, options)
    return layers


def _refuse_too_few(n: int, p_l: float, layers: int, options: SamplingOptions) -> None:
    """Where those that always run are more than the rate keeps."""
    always = protected(options.protect, n, options.keep_ends).layers
    if layers >= len(always):
        return
    keeps = f"p_l = {p_l} of {n} layers keeps only {layers}, but"
    if options.protect:
        listed = ", ".join(map(str, sorted(always)))
        raise ValueError(
            f"sampling.protect: {keeps} {len(always)} always run ({listed}); raise stage.p_l, or protect only the "
            "heads: and columns: of some"
        )
    raise ValueError(
        f"sampling.keep_ends: {keeps} the first and the last are 2; raise stage.p_l or set sampling.keep_ends=false"
    )


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
