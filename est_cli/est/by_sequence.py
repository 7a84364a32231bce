"""Each sequence of a micro-batch leaves out layers of its own (sampling.layers_by=sequence): the sizes. No torch.

How many sequences each layer runs, and how many layers each sequence goes through; index.py draws which ones.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from .kept import layer_size, sample_size
from .schedule import SamplingRates
from .sizes import MicroBatchSplit, SamplingOptions, SequenceCounts, sample_sizes
from .spec import ModelSpec


@dataclass(frozen=True)
class LayerDesign:
    """The sizes of a draw for a micro-batch of one process."""

    sequences: int
    layers: int
    """That are drawn for; the others, the first and the last or none, run all sequences."""
    of_each: int
    """Sequences that each of these layers runs."""
    ends: int

    @property
    def passes(self) -> int:
        """Sequences through a layer, summed over all layers."""
        return self.ends * self.sequences + self.layers * self.of_each

    def by_layers(self) -> list[tuple[int, int]]:
        """(layers, sequences): so many sequences go through so many layers; one row, or two that differ by 1."""
        fewest, one_more = divmod(self.passes, self.sequences)
        rows = [(fewest, self.sequences - one_more), (fewest + 1, one_more)]
        return [(layers, sequences) for layers, sequences in rows if sequences]


def draws_by_sequence(rates: SamplingRates, options: SamplingOptions) -> bool:
    """Whether layers are drawn at these rates, and for each sequence."""
    every = rates.layers == "first" or (rates.p_l == 1.0 and rates.num_layers is None)
    return options.layers_by == "sequence" and not every


def layer_design(spec: ModelSpec, rates: SamplingRates, options: SamplingOptions, sequences: int) -> LayerDesign | None:
    """The sizes of what is drawn for so many sequences of one process; None where layers are not drawn by sequence.

    The rate of the layers that are drawn for is such that p_l is that of all. Raises ValueError for one sequence.
    """
    if not draws_by_sequence(rates, options):
        return None
    layer_size(spec, rates, options)  # raises where the rate does not do
    if sequences == 1:
        raise ValueError(ALONE)
    n = spec.num_layers
    ends = min(n, 2) if options.keep_ends or rates.layers == "path" else 0
    running = rates.p_l * n if rates.num_layers is None else rates.num_layers
    of_each = sample_size((running - ends) / (n - ends), sequences) if n > ends else 0
    return LayerDesign(sequences, n - ends, of_each, ends)


ALONE = (
    "sampling.layers_by: sequence leaves out nothing of a micro-batch of 1 sequence, which each layer runs or no layer "
    "does; use a train.micro_batch of 2 or more that leaves no rest of 1, or layers_by=batch"
)


def step_counts(
    spec: ModelSpec, rates: SamplingRates, options: SamplingOptions, split: MicroBatchSplit
) -> SequenceCounts:
    """What a step at rates whose sizes are fixed runs, cut as `split` says. Raises ValueError as sample_sizes does."""
    sizes = sample_sizes(spec, rates, options)
    if not draws_by_sequence(rates, options):
        return ((sizes, sum(split.micro_batches)),)
    counts: Counter[int] = Counter()
    for together in split.micro_batches:
        design = layer_design(spec, rates, options, together // split.world_size)
        assert design is not None
        for layers, sequences in design.by_layers():
            counts[layers] += sequences * split.world_size
    return tuple((replace(sizes, layers=layers), sequences) for layers, sequences in counts.items())
