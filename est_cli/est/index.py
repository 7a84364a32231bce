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
from zlib import crc32

import torch
from torch import Tensor

from .balanced import balanced
from .by_sequence import LayerDesign, layer_design
from .hashing import counted, further, hash_numbers, hashed, uniform
from .schedule import SamplingRates, Stage
from .sizes import DEFAULTS, SampleSizes, SamplingOptions, sample_size, sample_sizes
from .spec import ModelSpec

_HEADS, _COLUMNS, _LAYERS, _SEQUENCES = 1, 2, 3, 4  # one independent stream of keys for each kind of unit
_POWERS = {"inverse": 1.0, "sqrt": 0.5, "none": 0.0}


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """What runs in one forward and backward pass. None means all of it, with no index at all.

    Indices are int64 and sorted in each row; rows of layers that do not run are drawn but not used.
    """

    layer_idx: tuple[int, ...] | None = None
    """I_L: the layers that run, sorted."""
    head_idx: Tensor | None = None
    """I_H, (L, k): query heads."""
    kv_idx: Tensor | None = None
    """(L, k): key/value heads that go with head_idx."""
    mlp_idx: Tensor | None = None
    """I_M, (L, k): MLP columns."""
    sequence_idx: Tensor | None = None
    """(L, k): instead of layer_idx, which sequences of the micro-batch each layer runs; `whole_layers` run all."""
    sequences: int = 0
    """Of the micro-batch that sequence_idx is of."""
    whole_layers: tuple[int, ...] = ()
    layer_scale: float = 1.0
    """Factor on the residual branches of the layers that run."""
    layer_scales: Tensor | None = None
    """(L,) float32: instead of layer_scale, where each layer has its own."""
    unit_power: float = 1.0
    """What the factor N/k of heads and columns is raised to: see SamplingOptions.unit_scale."""
    dropout: float = 0.0
    """Share of the entries of the residual branches' outputs that plain dropout takes away."""

    def shares_of_layers(self, num_layers: int) -> Tensor:
        """(L,) float64: the share of the sequences that each layer runs."""
        shares = torch.zeros(num_layers, dtype=torch.float64)
        if self.sequence_idx is None:
            shares[slice(None) if self.layer_idx is None else list(self.layer_idx)] = 1.0
        else:
            shares += self.sequence_idx.shape[1] / self.sequences
            shares[list(self.whole_layers)] = 1.0
        return shares

    def to(self, device: torch.device) -> Subnetwork:
        """The same subnetwork with its indices on `device`, sent there in one copy that nobody waits for."""
        if device.type == "cpu":
            return self
        sent: dict[str, Any] = {}
        parts = {name: idx for name in _INDICES if (idx := getattr(self, name)) is not None}
        if parts:
            packed = _sent(torch.cat([idx.reshape(-1) for idx in parts.values()]), device)
            pieces = packed.split([idx.numel() for idx in parts.values()])
            sent = {name: piece.view(parts[name].shape) for name, piece in zip(parts, pieces, strict=True)}
        if self.layer_scales is not None:
            sent["layer_scales"] = _sent(self.layer_scales, device)
        return replace(self, **sent) if sent else self

    def checksum(self) -> int:
        """A 32-bit number that differs for different subnetworks, but for one in four billion; the same everywhere."""
        sum32 = crc32(repr((self.layer_idx, self.layer_scale, self.dropout)).encode())
        for name in (*_INDICES, "layer_scales"):
            if (idx := getattr(self, name)) is not None:
                sum32 = crc32(idx.contiguous().numpy(), sum32)
        return sum32


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


_INDICES = ("head_idx", "kv_idx", "mlp_idx", "sequence_idx")

FULL = Subnetwork()
"""The complete model."""


class _At(NamedTuple):
    """Where a draw stands in the run."""

    step: int
    place: tuple[int, ...]
    """What it depends on beside seed and step, if it is independent of all others."""
    number: int = 0
    """Under cover=balanced: how many draws of the step come before it."""
    turns: Tensor | None = None
    """(L,) under cover=balanced: in how many of these each layer runs, or takes part if all layers share a draw."""


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
        if rates.full:
            return FULL
        sizes = sample_sizes(self.spec, rates, self.options)
        design = None if sequences is None else layer_design(self.spec, rates, self.options, sequences)
        layers = sizes.layers if design is None else self.spec.num_layers
        at = self._at(step, micro_step, rank, rates, layers)
        head_idx, kv_idx = self._draw_heads(at, rates.p_h, sizes.kv_heads)
        scale, scales = self._scales(rates, sizes.layers if design is None else design.passes / design.sequences)
        return Subnetwork(
            layer_idx=self._draw_layers(at, rates, layers),
            **({} if design is None else self._draw_sequences(at, design)),
            head_idx=head_idx,
            kv_idx=kv_idx,
            mlp_idx=self._draw_units(at, _COLUMNS, self.spec.mlp_size, sizes.columns),
            layer_scale=scale,
            layer_scales=scales,
            unit_power=_POWERS[self.options.unit_scale],
            dropout=1.0 - rates.p_d,
        )

    def largest(self, rates: SamplingRates) -> Subnetwork:
        """A subnetwork of the largest size that draw() can give at these rates."""
        return self.draw(0, replace(rates, p_l=1.0, layers="sample") if rates.random else rates)

    def layer_counts(self, steps: range, stage: Stage, micro_step: int = 0, rank: int = 0) -> Tensor:
        """(S,) int64: how many layers draw() lets run in each of `steps`, all of `stage`, whose rates are random."""
        p_l = [stage.p_l_at(step) for step in steps]
        place = self._place(micro_step, rank)
        return self._chosen(torch.arange(steps.start, steps.stop, steps.step), place, stage.rates.layers, p_l).sum(
            dim=1
        )

    def _place(self, micro_step: int, rank: int) -> tuple[int, ...]:
        """What a draw depends on beside seed and step."""
        micro_step = micro_step if self.options.redraw == "forward" else 0
        return (micro_step, rank) if self.options.ranks == "independent" else (micro_step,)

    def _at(self, step: int, micro_step: int, rank: int, rates: SamplingRates, k: int) -> _At:
        """Where a draw stands in the run; `k`: the layers that run."""
        place = self._place(micro_step, rank)
        if self.options.cover == "independent":
            return _At(step, place)
        number = place[0] * self.world_size + rank if len(place) > 1 else place[0]
        turns, (first, size, count) = torch.full((self.spec.num_layers,), number), self._free_layers(rates, k)
        if self.options.per_layer and 0 < count < size:
            alike = torch.zeros(number, dtype=torch.int64)
            before = balanced((self.seed, step, _LAYERS), alike, torch.arange(number), size, count)
            turns[first : first + size] = before.flatten().bincount(minlength=size)
        return _At(step, place, number, turns)

    def _draw_layers(self, at: _At, rates: SamplingRates, k: int) -> tuple[int, ...] | None:
        n = self.spec.num_layers
        if rates.random:
            kept = self._chosen(torch.tensor([at.step]), at.place, rates.layers, [rates.p_l])[0]
            return None if bool(kept.all()) else tuple(kept.nonzero()[:, 0].tolist())
        if k == n:
            return None
        if rates.layers == "first":
            return tuple(range(k))
        first, size, count = self._free_layers(rates, k)
        drawn = self._sampled(at, _LAYERS, rows=1, n=size, k=count)[0].tolist()
        layers = [first + layer for layer in drawn]
        return tuple([0, *layers, n - 1] if first else layers)

    def _free_layers(self, rates: SamplingRates, k: int) -> tuple[int, int, int]:
        """(first, size, count): so many are drawn of `size` layers from `first` on, where `k` of all run."""
        ends = self.options.keep_ends or rates.layers == "path"
        return (1, self.spec.num_layers - 2, k - 2) if ends else (0, self.spec.num_layers, k)

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
        alike = torch.zeros(design.layers, dtype=torch.int64)
        idx[begin : n - begin] = balanced((*key, 1), alike, order, design.sequences, design.of_each)
        return {
            "sequence_idx": idx,
            "sequences": design.sequences,
            "whole_layers": (0, n - 1) if begin else (),
        }

    def _chosen(self, steps: Tensor, place: tuple[int, ...], how: str, p_l: Sequence[float]) -> Tensor:
        """(S, L) bool: which layers run in each step, where each layer is drawn by itself."""
        key = hashed((self.seed,), steps)
        numbers: list[Tensor | int] = [steps, *place, _LAYERS]
        for number in numbers:
            key = further(key, number)
        return uniform(counted(key, self.spec.num_layers)) < self._chances(how, p_l)

    def _chances(self, how: str, p_l: Sequence[float]) -> Tensor:
        """(S, L) float64: the probability of each layer to run, `how` is chance or depth."""
        n, rates = self.spec.num_layers, torch.tensor(p_l, dtype=torch.float64).unsqueeze(1)
        depth = torch.arange(n, dtype=torch.float64) / n
        chances = 1.0 - depth * (1.0 - rates) if how == "depth" else rates.repeat(1, n)
        if self.options.keep_ends:
            chances[:, 0] = chances[:, -1] = 1.0
        return chances

    def _scales(self, rates: SamplingRates, k: float) -> tuple[float, Tensor | None]:
        """(layer_scale, layer_scales) of a subnetwork."""
        inverse = self.options.layer_scale == "inverse"
        if rates.layers == "depth" or (rates.random and inverse):
            return 1.0, (1.0 / self._chances(rates.layers, [rates.p_l])[0]).to(torch.float32)
        return (self.spec.num_layers / k if inverse and rates.layers != "first" else 1.0), None

    def _draw_units(self, at: _At, kind: int, n: int, k: int) -> Tensor | None:
        """(L, k) sorted units out of n, or None where all n run."""
        if k == n:
            return None
        rows = self.spec.num_layers if self.options.per_layer else 1
        return self._sampled(at, kind, rows, n, k).expand(self.spec.num_layers, k)

    def _draw_heads(self, at: _At, p_h: float, kv_heads: int) -> tuple[Tensor | None, Tensor | None]:
        """(head_idx, kv_idx): whole KV groups, or (kv_idx None) the same number of query heads from each group."""
        if p_h == 1.0:
            return None, None
        spec = self.spec
        if self.options.kv_groups == "whole":
            groups = self._draw_units(at, _HEADS, spec.num_kv_heads, kv_heads)
            return (None, None) if groups is None else (_heads_of(groups, spec.group_size), groups)
        k = sample_size(p_h, spec.group_size)
        if k == spec.group_size:
            return None, None
        rows = spec.num_layers if self.options.per_layer else 1
        inside = self._sampled(at, _HEADS, rows * spec.num_kv_heads, spec.group_size, k)
        first_heads = torch.arange(spec.num_kv_heads).view(1, -1, 1) * spec.group_size
        heads = inside.view(rows, spec.num_kv_heads, k) + first_heads
        return heads.view(rows, -1).expand(spec.num_layers, -1), None

    def _sampled(self, at: _At, kind: int, rows: int, n: int, k: int) -> Tensor:
        """(rows, k) int64: in each row k of range(n), sorted; rows of one layer stand together."""
        if at.turns is None:
            return _sample((self.seed, at.step, *at.place, kind), rows, n, k)
        layers = self.spec.num_layers if self.options.per_layer else 1
        own = torch.tensor([at.number]) if kind == _LAYERS else at.turns[:layers].repeat_interleave(rows // layers)
        return balanced((self.seed, at.step, kind), torch.arange(rows), own, n, k)


def sizes_of(spec: ModelSpec, subnetwork: Subnetwork) -> SampleSizes:
    """What of the model that `spec` describes runs in a subnetwork."""
    kept = (subnetwork.head_idx, subnetwork.kv_idx, subnetwork.mlp_idx)
    heads, kv_heads, columns = (n if idx is None else idx.shape[1] for n, idx in zip(spec.full, kept, strict=True))
    layers = spec.num_layers if subnetwork.layer_idx is None else len(subnetwork.layer_idx)
    return SampleSizes(heads, kv_heads, columns, layers)


def sizes_of_each(spec: ModelSpec, subnetwork: Subnetwork) -> list[SampleSizes]:
    """What runs of each sequence of a micro-batch, in their order; one for all, where it is the same."""
    sizes, idx = sizes_of(spec, subnetwork), subnetwork.sequence_idx
    if idx is None:
        return [sizes]
    drawn = [row for number, row in enumerate(idx) if number not in subnetwork.whole_layers]
    layers = torch.cat(drawn).bincount(minlength=subnetwork.sequences) + len(subnetwork.whole_layers)
    return [replace(sizes, layers=count) for count in layers.tolist()]


def _heads_of(groups: Tensor, group_size: int) -> Tensor:
    """(L, k) KV groups -> (L, k * group_size) their query heads, in order."""
    if group_size == 1:
        return groups
    heads = groups.unsqueeze(-1) * group_size + torch.arange(group_size)
    return heads.flatten(1)


def _sample(key: tuple[int, ...], rows: int, n: int, k: int) -> Tensor:
    """(rows, k) int64: in each row k of range(n), uniform without replacement, sorted."""
    keys = counted(hash_numbers(key), rows * n).view(rows, n)
    return keys.topk(k, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
