"""Index generator: which heads, columns and layers run (paper, section 3.1).

The draw is a pure function of (seed, step, micro-step, rank): unit i gets a 64-bit key by hashing these numbers with
its position, and the k units with the smallest keys are the sample. That is uniform without replacement, needs no
generator state (resuming is exact, every rank draws the same), and is one vectorised operation for all layers. Where
each layer is drawn by itself, its key says whether it runs.

Shapes: L layers, k units kept, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .balanced import balanced
from .by_sequence import LayerDesign, layer_design
from .hashing import counted, further, hash_numbers, hashed, uniform
from .independent import least, sample
from .kept import always_run, kept_units, largest_layers, layer_chances, layer_size
from .schedule import SamplingRates, Stage
from .sizes import DEFAULTS, SampleSizes, SamplingOptions
from .spec import Kept, ModelSpec
from .subnetwork import FULL, Subnetwork
from .systematic import systematic

_HEADS, _COLUMNS, _LAYERS = 1, 2, 3  # one independent stream of keys for each kind of unit; 4 is in positions.py
_SEQUENCES = 5
_START = 0  # and one of where the draw of layers by their own chances begins
_POWERS = {"inverse": 1.0, "sqrt": 0.5, "none": 0.0}


class _At(NamedTuple):
    """Where a draw stands in the run."""

    step: int
    place: tuple[int, ...]
    """What it depends on beside seed and step."""
    turns: Tensor | None = None
    """(L,) under cover=balanced: in how many of the draws before it in its step each layer runs, or takes part where
    all layers share a draw."""


@dataclass(frozen=True)
class IndexGenerator:
    """Draws subnetworks of the model that `spec` describes."""

    spec: ModelSpec
    seed: int
    options: SamplingOptions = DEFAULTS
    world_size: int = 1
    """Processes of the run, which counts where they draw apart and cover=balanced has their draws go together."""

    def draw(
        self, step: int, rates: SamplingRates, micro_step: int = 0, rank: int = 0, sequences: int | None = None
    ) -> Subnetwork:
        """The subnetwork of optimizer step `step`; `micro_step` counts only under redraw=forward, `rank` only under
        ranks=independent, and `sequences`, those of the micro-batch, only under layers_by=sequence (None: all leave out
        the same layers).

        Raises ValueError where the rates and options would sample nothing.
        """
        if rates.complete:
            return FULL
        kept = kept_units(self.spec, rates, self.options)
        design = None if sequences is None else layer_design(self.spec, rates, self.options, sequences)
        at = self._at(step, micro_step, rank, rates, design)
        head_idx, kv_idx = self._draw_heads(at, kept)
        scale, scales = self._scales(rates, design)
        return Subnetwork(
            **({"layer_idx": self._draw_layers(at, rates)} if design is None else self._draw_sequences(at, design)),
            head_idx=head_idx,
            kv_idx=kv_idx,
            mlp_idx=self._draw_units(at, _COLUMNS, self.spec.mlp_size, [own.columns for own in kept]),
            kept=kept if len(set(kept)) > 1 else None,
            layer_scale=scale,
            layer_scales=scales,
            unit_power=_POWERS[self.options.unit_scale],
            dropout=1.0 - rates.p_d,
        )

    def largest(self, rates: SamplingRates) -> Subnetwork:
        """A subnetwork of the largest size that draw() can give at these rates."""
        drawn = self.draw(0, replace(rates, p_l=1.0, layers="sample") if rates.random else rates)
        if drawn.layer_idx is None or drawn.kept is None:
            return drawn
        return replace(drawn, layer_idx=tuple(largest_layers(self.spec, rates, self.options)))

    def sizes_at(
        self, steps: range, stage: Stage, micro_step: int = 0, rank: int = 0
    ) -> tuple[list[SampleSizes], Tensor]:
        """What draw() lets run in each of `steps`, all of `stage`: different sizes, and (S,) int64, which of them."""
        kept = kept_units(self.spec, stage.rates, self.options)
        at = torch.arange(steps.start, steps.stop, steps.step)
        p_l = [stage.p_l_at(step) for step in steps] if stage.rates.random else []
        running = self._running(at, self._place(micro_step, rank), stage.rates, p_l)
        like = torch.tensor([[own == one for one in dict.fromkeys(kept)] for own in kept], dtype=torch.int64)
        rows, row_of_step = (running.to(torch.int64) @ like).unique(dim=0, return_inverse=True)
        of_rows = torch.zeros(len(rows), self.spec.num_layers, dtype=torch.bool)
        of_rows[row_of_step] = running  # any of those that are alike
        found = (SampleSizes.of_layers(kept, row.nonzero()[:, 0].tolist()) for row in of_rows)
        return [replace(sizes, p_t=stage.rates.p_t) for sizes in found], row_of_step

    def _place(self, micro_step: int, rank: int) -> tuple[int, ...]:
        """What a draw depends on beside seed and step."""
        micro_step = micro_step if self.options.redraw == "forward" else 0
        return (micro_step, rank) if self.options.ranks == "independent" else (micro_step,)

    def _at(self, step: int, micro_step: int, rank: int, rates: SamplingRates, design: LayerDesign | None) -> _At:
        """Where a draw stands; with a `design` every layer runs in it."""
        place = self._place(micro_step, rank)
        if self.options.cover == "independent":
            return _At(step, place)
        number = self._number(place)
        turns, (_, others, count) = torch.full((self.spec.num_layers,), number), self._free_layers(rates)
        if self.options.per_layer and design is None and 0 < count < len(others):
            states = self._layer_states(torch.full((number,), step))
            before = balanced(states, torch.arange(number), len(others), count)
            turns[others] = before.flatten().bincount(minlength=len(others))
        return _At(step, place, turns)

    def _number(self, place: tuple[int, ...]) -> int:
        """How many draws of its step come before the one at `place`."""
        return place[0] * self.world_size + place[1] if len(place) > 1 else place[0]

    def _draw_sequences(self, at: _At, design: LayerDesign) -> dict[str, Any]:
        """Which sequences each layer runs, as a Subnetwork has it.

        The layers take balanced draws of the sequences, in an order that is drawn, too: so each sequence goes through
        as many layers as every other, or one more, and all sets of so many layers are equally likely.
        """
        n, begin, key = self.spec.num_layers, design.ends // 2, (self.seed, at.step, *at.place, _SEQUENCES)
        if design.of_each in (0, design.sequences):
            return {}
        order = counted(hash_numbers((*key, 0)), design.layers).argsort()
        idx = torch.arange(design.of_each).repeat(n, 1)
        idx[begin : n - begin] = balanced(hashed((*key, 1), order), order, design.sequences, design.of_each)
        whole = (0, n - 1) if begin else ()
        return {"sequence_idx": idx, "sequences": design.sequences, "whole_layers": whole}

    def _draw_layers(self, at: _At, rates: SamplingRates) -> tuple[int, ...] | None:
        running = self._running(torch.tensor([at.step]), at.place, rates, [rates.p_l])[0].tolist()
        return None if all(running) else tuple(layer for layer, runs in enumerate(running) if runs)

    def _running(self, steps: Tensor, place: tuple[int, ...], rates: SamplingRates, p_l: Sequence[float]) -> Tensor:
        """(S, L) bool: which layers run in each step; `p_l` of each step counts where each layer is drawn by itself."""
        n, k = self.spec.num_layers, layer_size(self.spec, rates, self.options)
        if rates.random:
            return uniform(self._layer_keys(steps, place, n)) < self._chances(rates, p_l)
        running = torch.zeros(len(steps), n, dtype=torch.bool)
        if k == n or rates.layers == "first":
            running[:, :k] = True
            return running
        always, others, count = self._free_layers(rates)
        running[:, always] = True
        if rates.by_layer:
            start = uniform(counted(self._layer_states(steps, place, _START), 1))
            order = self._layer_keys(steps, place, len(others)).argsort(dim=1)
            running[:, others] = systematic(order, start, self._chances(rates, [rates.p_l])[0, others])
            return running
        if self.options.cover == "independent" or not count:
            drawn = least(self._layer_keys(steps, place, len(others)), count)
        else:
            numbers = torch.full_like(steps, self._number(place))
            drawn = balanced(self._layer_states(steps), numbers, len(others), count)
        return running.scatter_(1, others[drawn], True)

    def _free_layers(self, rates: SamplingRates) -> tuple[list[int], Tensor, int]:
        """The layers that always run, the others, and how many of these are drawn."""
        always = sorted(always_run(self.spec, rates, self.options))
        others = [layer for layer in range(self.spec.num_layers) if layer not in always]
        count = layer_size(self.spec, rates, self.options) - len(always)
        return always, torch.tensor(others, dtype=torch.int64), count

    def _layer_states(self, steps: Tensor, place: tuple[int, ...] = (), stream: int = _LAYERS) -> Tensor:
        """(S,) int64: a hash for each step, of the layers that are drawn at `place`, or anywhere in it."""
        state = hashed((self.seed,), steps)
        numbers: list[Tensor | int] = [steps, *place, stream]
        for number in numbers:
            state = further(state, number)
        return state

    def _layer_keys(self, steps: Tensor, place: tuple[int, ...], n: int) -> Tensor:
        """(S, n) int64: in each row what _keys() gives for its step."""
        return counted(self._layer_states(steps, place), n)

    def _chances(self, rates: SamplingRates, p_l: Sequence[float]) -> Tensor:
        """(S, L) float64: the probability of each layer to run at each of the rates `p_l`."""
        n, of_steps = self.spec.num_layers, torch.tensor(p_l, dtype=torch.float64).unsqueeze(1)
        if not rates.random:
            return torch.tensor(layer_chances(self.spec, rates, self.options), dtype=torch.float64).expand(len(p_l), n)
        depth = torch.arange(n, dtype=torch.float64) / n
        chances = 1.0 - depth * (1.0 - of_steps) if rates.layers == "depth" else of_steps.repeat(1, n)
        chances[:, sorted(always_run(self.spec, rates, self.options))] = 1.0
        return chances

    def _scales(self, rates: SamplingRates, design: LayerDesign | None) -> tuple[float, Tensor | None]:
        """(layer_scale, layer_scales) of a subnetwork."""
        inverse = self.options.layer_scale == "inverse" and rates.layers != "first"
        if design is not None:
            return (self.spec.num_layers * design.sequences / design.passes if inverse else 1.0), None
        k, n = layer_size(self.spec, rates, self.options), self.spec.num_layers
        own = bool(self.options.protect or rates.by_layer)  # with keep_ends alone all are scaled alike
        each = rates.random or (own and k < n)
        if rates.layers == "depth" or (inverse and each):
            return 1.0, (1.0 / self._chances(rates, [rates.p_l])[0]).to(torch.float32)
        return (n / k if inverse else 1.0), None

    def _draw_units(self, at: _At, kind: int, n: int, counts: Sequence[int]) -> Tensor | None:
        """(L, k) sorted units out of n, `counts` of them in each layer; None where all n run."""
        if min(counts) == n:
            return None
        rows = self.spec.num_layers if self.options.per_layer else 1
        return self._sampled(at, kind, rows, n, counts)

    def _sampled(self, at: _At, kind: int, rows: int, n: int, counts: Sequence[int]) -> Tensor:
        """As sample(); rows of one layer stand together, and a layer that keeps more than others keeps all."""
        if at.turns is None:
            return sample((self.seed, at.step, *at.place, kind), rows, n, counts)
        k, layers, numbers = min(counts), self.spec.num_layers if self.options.per_layer else 1, torch.arange(rows)
        states = further(hashed((self.seed, at.step, kind), numbers), numbers)
        drawn = balanced(states, at.turns[:layers].repeat_interleave(rows // layers), n, k)
        drawn = drawn.repeat(len(counts) // rows, 1)
        if max(counts) > k:
            drawn = F.pad(drawn, (0, n - k), value=n)
            drawn[torch.tensor(counts) == n] = torch.arange(n)
        return drawn

    def _draw_heads(self, at: _At, kept: Sequence[Kept]) -> tuple[Tensor | None, Tensor | None]:
        """(head_idx, kv_idx): whole KV groups, or (kv_idx None) the same number of query heads from each group."""
        spec = self.spec
        if self.options.kv_groups == "whole":
            groups = self._draw_units(at, _HEADS, spec.num_kv_heads, [own.kv_heads for own in kept])
            return (None, None) if groups is None else (_heads_of(groups, spec), groups)
        counts = [own.heads // spec.num_kv_heads for own in kept]
        if min(counts) == spec.group_size:
            return None, None
        rows = spec.num_layers if self.options.per_layer else 1
        of_groups = [count for count in counts for _ in range(spec.num_kv_heads)]
        inside = self._sampled(at, _HEADS, rows * spec.num_kv_heads, spec.group_size, of_groups)
        inside = inside.view(spec.num_layers, spec.num_kv_heads, -1)
        heads = inside + torch.arange(spec.num_kv_heads).view(1, -1, 1) * spec.group_size
        return heads.masked_fill(inside == spec.group_size, spec.num_heads).flatten(1).sort(dim=1).values, None


def _heads_of(groups: Tensor, spec: ModelSpec) -> Tensor:
    """(L, k) KV groups -> (L, k * group size) their query heads, in order."""
    if spec.group_size == 1:
        return groups
    heads = groups.unsqueeze(-1) * spec.group_size + torch.arange(spec.group_size)
    return heads.flatten(1).clamp(max=spec.num_heads)
