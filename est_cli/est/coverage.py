"""How often each head, column and layer was trained: the seeded draws of a run, made once more and counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .index import IndexGenerator
from .schedule import SamplingRates, SamplingScheduler
from .sizes import DEFAULTS, MicroBatchSplit, SamplingOptions, draws_of
from .spec import ModelSpec
from .subnetwork import Subnetwork

ONE = MicroBatchSplit((1,))
MOST_DRAWS = 100_000
"""Of a stage that are counted, some minutes' worth: of more it is steps at equal distances."""


@dataclass(frozen=True, eq=False)
class Coverage:
    """Shares of a run's steps (0-1) in which each unit was trained; of a step whose pieces differ, their share."""

    layers: Tensor
    """(L,) float64."""
    heads: Tensor
    """(L, H) float64, query heads. A head of a layer that did not run was not trained."""
    columns: Tensor
    """(L, M) float64; M is 0 in a model without an MLP."""


def coverage(
    spec: ModelSpec,
    scheduler: SamplingScheduler,
    seed: int,
    options: SamplingOptions = DEFAULTS,
    splits: Mapping[int, MicroBatchSplit] | None = None,
) -> Coverage:
    """The coverage of a whole run; `splits` as in planned_counts(). As many draws as the run has, up to MOST_DRAWS."""
    counts = Counts(spec)
    for number, steps in enumerate(scheduler.stage_steps(), start=1):
        stage, split = scheduler.stages[number - 1], (splits or {}).get(number, ONE)
        generator = IndexGenerator(spec, seed, options, split.world_size)
        if stage.rates.layers == "sample" and stage.rates.p_h == stage.rates.p_m == stage.rates.p_l == 1.0:
            counts.add(Subnetwork(), float(steps))
            continue
        apart = max(1, -(-steps * len(draws_of(options, split)) // MOST_DRAWS))
        counted = range(stage.until_step - steps, stage.until_step, apart)
        for step in counted:
            counts.add_step(generator, step, stage.rates_at(step), split, steps / len(counted))
    return counts.shares(scheduler.max_steps)


class Counts:
    """Weights of the subnetworks that each unit was in."""

    def __init__(self, spec: ModelSpec) -> None:
        self._layers = torch.zeros(spec.num_layers, dtype=torch.float64)
        # The last column takes what fills up rows of layers that keep fewer units.
        self._heads = torch.zeros(spec.num_layers, spec.num_heads + 1, dtype=torch.float64)
        self._columns = torch.zeros(spec.num_layers, spec.mlp_size + 1, dtype=torch.float64)

    def add(self, subnetwork: Subnetwork, weight: float) -> None:
        """Count the units of a subnetwork, whose indices are on the CPU."""
        shares = subnetwork.shares_of_layers(len(self._layers))
        ran = torch.tensor([weight * share for share in shares], dtype=torch.float64)
        self._layers += ran
        for counts, idx in ((self._heads, subnetwork.head_idx), (self._columns, subnetwork.mlp_idx)):
            if idx is None:
                counts += ran.unsqueeze(1)
            else:
                counts.scatter_add_(1, idx, ran.unsqueeze(1).expand(idx.shape))

    def add_step(
        self, generator: IndexGenerator, step: int, rates: SamplingRates, split: MicroBatchSplit, weight: float = 1.0
    ) -> None:
        """Count what is drawn for a step that is cut as `split` says."""
        for draw in draws_of(generator.options, split):
            drawn = generator.draw(step, rates, draw.micro_step, draw.rank, draw.micro_batch)
            self.add(drawn, weight * draw.sequences / sum(split.micro_batches))

    def shares(self, steps: int) -> Coverage:
        """Of so many steps, each of which has added weights of 1 in sum."""
        return Coverage(self._layers / steps, self._heads[:, :-1] / steps, self._columns[:, :-1] / steps)
