"""Index generator: which heads, columns and layers run (paper, section 3.1).

The draw is a pure function of (seed, step, micro-step, rank): unit i gets a 64-bit key by hashing these numbers with
its position, and the k units with the smallest keys are the sample. That is uniform without replacement, needs no
generator state (resuming is exact, every rank draws the same), and is one vectorised operation for all layers. Where
each layer is drawn by itself, its key says whether it runs.

Shapes: L layers, k units kept (K the most, where layers differ), S steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from .kept import always_run, kept_units, largest_layers, layer_chances, layer_size
from .schedule import SamplingRates, Stage
from .sizes import DEFAULTS, SampleSizes, SamplingOptions
from .spec import Kept, ModelSpec, Unit
from .systematic import systematic

_HEADS, _COLUMNS, _LAYERS = 1, 2, 3  # one independent stream of keys for each kind of unit
_START = 0  # and one of where the draw of layers by their own chances begins
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64 (Steele, Lea, Flood 2014)
_WORD = (1 << 64) - 1
_POWERS = {"inverse": 1.0, "sqrt": 0.5, "none": 0.0}


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """What runs in one forward and backward pass. None means all of it, with no index at all.

    Indices are int64 and sorted in each row; rows of layers that do not run are drawn but not used. Where layers differ
    (see kept), a row of (L, K) holds its layer's units first, and then the number of all units, which is none of them.
    """

    layer_idx: tuple[int, ...] | None = None
    """I_L: the layers that run, sorted."""
    head_idx: Tensor | None = None
    """I_H, (L, k): query heads."""
    kv_idx: Tensor | None = None
    """(L, k): key/value heads that go with head_idx."""
    mlp_idx: Tensor | None = None
    """I_M, (L, k): MLP columns."""
    layer_scale: float = 1.0
    """Factor on the residual branches of the layers that run."""
    layer_scales: Tensor | None = None
    """(L,) float32: instead of layer_scale, where each layer has its own."""
    unit_power: float = 1.0
    """What the factor N/k of heads and columns is raised to: see SamplingOptions.unit_scale."""
    dropout: float = 0.0
    """Share of the entries of the residual branches' outputs that plain dropout takes away."""
    kept: tuple[Kept, ...] | None = None
    """How many units run in each layer, where layers differ."""

    def units(self, unit: Unit, layer: int) -> Tensor | None:
        """(k,) those that run in a layer; None: all, with no index."""
        idx = getattr(self, _INDEX_OF[unit])
        if idx is None or self.kept is None:
            return None if idx is None else idx[layer]
        row: Tensor = idx[layer, : self.kept[layer].of(unit)]
        return row

    def alike(self, spec: ModelSpec) -> Iterator[tuple[Sequence[int], Subnetwork]]:
        """In parts whose layers keep the same numbers of units: these layers, and the subnetwork with their rows alone.
        What runs whole in them has no index."""
        if self.kept is None:
            yield range(spec.num_layers), self
            return
        for kept in dict.fromkeys(self.kept):
            rows = [layer for layer, own in enumerate(self.kept) if own == kept]
            part: dict[str, Any] = {"kept": None}
            for unit, name in _INDEX_OF.items():
                idx, k = getattr(self, name), kept.of(unit)
                part[name] = None if idx is None or k == spec.full.of(unit) else idx[rows, :k]
            part["layer_scales"] = None if self.layer_scales is None else self.layer_scales[rows]
            yield rows, replace(self, **part)

    def to(self, device: torch.device) -> Subnetwork:
        """The same subnetwork with its indices on `device`, sent there in one copy that nobody waits for."""
        if device.type == "cpu":
            return self
        sent: dict[str, Any] = {}
        parts = {name: idx for name in INDICES if (idx := getattr(self, name)) is not None}
        if parts:
            packed = _sent(torch.cat([idx.reshape(-1) for idx in parts.values()]), device)
            pieces = packed.split([idx.numel() for idx in parts.values()])
            sent = {name: piece.view(parts[name].shape) for name, piece in zip(parts, pieces, strict=True)}
        if self.layer_scales is not None:
            sent["layer_scales"] = _sent(self.layer_scales, device)
        return replace(self, **sent) if sent else self

    def checksum(self) -> int:
        """A 32-bit number that differs for different subnetworks, but for one in four billion; the same everywhere."""
        numbers = (self.layer_idx, self.layer_scale, self.dropout, *([] if self.kept is None else [self.kept]))
        sum32 = crc32(repr(numbers).encode())
        for name in (*INDICES, "layer_scales"):
            if (idx := getattr(self, name)) is not None:
                sum32 = crc32(idx.contiguous().numpy(), sum32)
        return sum32


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


_INDEX_OF: dict[Unit, str] = {"head": "head_idx", "kv_head": "kv_idx", "column": "mlp_idx"}
INDICES = tuple(_INDEX_OF.values())
"""The fields of a Subnetwork that hold indices."""

FULL = Subnetwork()
"""The complete model."""


@dataclass(frozen=True)
class IndexGenerator:
    """Draws subnetworks of the model that `spec` describes."""

    spec: ModelSpec
    seed: int
    options: SamplingOptions = DEFAULTS

    def draw(self, step: int, rates: SamplingRates, micro_step: int = 0, rank: int = 0) -> Subnetwork:
        """The subnetwork of optimizer step `step`; `micro_step` counts only under redraw=forward, `rank` only under
        ranks=independent.

        Raises ValueError where the rates and options would sample nothing.
        """
        if rates.complete:
            return FULL
        kept = kept_units(self.spec, rates, self.options)
        at = (self.seed, step, *self._place(micro_step, rank))
        head_idx, kv_idx = self._draw_heads(at, kept)
        scale, scales = self._scales(rates)
        return Subnetwork(
            layer_idx=self._draw_layers(at, rates),
            head_idx=head_idx,
            kv_idx=kv_idx,
            mlp_idx=self._draw_units((*at, _COLUMNS), self.spec.mlp_size, [own.columns for own in kept]),
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

    def _draw_layers(self, at: tuple[int, ...], rates: SamplingRates) -> tuple[int, ...] | None:
        _, step, *place = at
        running = self._running(torch.tensor([step]), tuple(place), rates, [rates.p_l])[0]
        return None if bool(running.all()) else tuple(running.nonzero()[:, 0].tolist())

    def _running(self, steps: Tensor, place: tuple[int, ...], rates: SamplingRates, p_l: Sequence[float]) -> Tensor:
        """(S, L) bool: which layers run in each step; `p_l` of each step counts where each layer is drawn by itself."""
        n, k = self.spec.num_layers, layer_size(self.spec, rates, self.options)
        if rates.random:
            return _uniform(self._layer_keys(steps, place, n)) < self._chances(rates, p_l)
        running = torch.zeros(len(steps), n, dtype=torch.bool)
        if k == n or rates.layers == "first":
            running[:, :k] = True
            return running
        always = sorted(always_run(self.spec, rates, self.options))
        others = torch.tensor([layer for layer in range(n) if layer not in always], dtype=torch.int64)
        keys = self._layer_keys(steps, place, len(others))
        running[:, always] = True
        if rates.by_layer:
            start, chances = _uniform(self._layer_keys(steps, place, 1, _START)), self._chances(rates, [rates.p_l])[0]
            running[:, others] = systematic(keys.argsort(dim=1), start, chances[others])
            return running
        drawn = _least(keys, k - len(always))
        return running.scatter_(1, others[drawn], True)

    def _layer_keys(self, steps: Tensor, place: tuple[int, ...], n: int, stream: int = _LAYERS) -> Tensor:
        """(S, n) int64: in each row what _keys() gives for its step."""
        key = torch.full_like(steps, _signed(hash_numbers((self.seed,))))
        numbers: list[Tensor | int] = [steps, *place, stream]
        for number in numbers:
            key = _mix(key + _signed(_GOLDEN) + number)  # as hash_numbers
        return _mix(torch.arange(1, n + 1) * _signed(_GOLDEN) + key.unsqueeze(1))

    def _chances(self, rates: SamplingRates, p_l: Sequence[float]) -> Tensor:
        """(S, L) float64: the probability of each layer to run at each of the rates `p_l`."""
        n, of_steps = self.spec.num_layers, torch.tensor(p_l, dtype=torch.float64).unsqueeze(1)
        if not rates.random:
            return torch.tensor(layer_chances(self.spec, rates, self.options), dtype=torch.float64).expand(len(p_l), n)
        depth = torch.arange(n, dtype=torch.float64) / n
        chances = 1.0 - depth * (1.0 - of_steps) if rates.layers == "depth" else of_steps.repeat(1, n)
        chances[:, sorted(always_run(self.spec, rates, self.options))] = 1.0
        return chances

    def _scales(self, rates: SamplingRates) -> tuple[float, Tensor | None]:
        """(layer_scale, layer_scales) of a subnetwork."""
        inverse = self.options.layer_scale == "inverse" and rates.layers != "first"
        k, n = layer_size(self.spec, rates, self.options), self.spec.num_layers
        own = bool(self.options.protect or rates.by_layer)  # with keep_ends alone all are scaled alike
        each = rates.random or (own and k < n)
        if rates.layers == "depth" or (inverse and each):
            return 1.0, (1.0 / self._chances(rates, [rates.p_l])[0]).to(torch.float32)
        return (n / k if inverse else 1.0), None

    def _draw_units(self, key: tuple[int, ...], n: int, counts: Sequence[int]) -> Tensor | None:
        """(L, k) sorted units out of n, `counts` of them in each layer; None where all n run."""
        if min(counts) == n:
            return None
        rows = self.spec.num_layers if self.options.per_layer else 1
        return _sample(key, rows, n, counts)

    def _draw_heads(self, at: tuple[int, ...], kept: Sequence[Kept]) -> tuple[Tensor | None, Tensor | None]:
        """(head_idx, kv_idx): whole KV groups, or (kv_idx None) the same number of query heads from each group."""
        spec, key = self.spec, (*at, _HEADS)
        if self.options.kv_groups == "whole":
            groups = self._draw_units(key, spec.num_kv_heads, [own.kv_heads for own in kept])
            return (None, None) if groups is None else (_heads_of(groups, spec), groups)
        counts = [own.heads // spec.num_kv_heads for own in kept]
        if min(counts) == spec.group_size:
            return None, None
        rows = spec.num_layers if self.options.per_layer else 1
        of_groups = [count for count in counts for _ in range(spec.num_kv_heads)]
        inside = _sample(key, rows * spec.num_kv_heads, spec.group_size, of_groups)
        inside = inside.view(spec.num_layers, spec.num_kv_heads, -1)
        heads = inside + torch.arange(spec.num_kv_heads).view(1, -1, 1) * spec.group_size
        return heads.masked_fill(inside == spec.group_size, spec.num_heads).flatten(1).sort(dim=1).values, None


def sizes_of(spec: ModelSpec, subnetwork: Subnetwork) -> SampleSizes:
    """What of the model that `spec` describes runs in a subnetwork."""
    running = range(spec.num_layers) if subnetwork.layer_idx is None else subnetwork.layer_idx
    if subnetwork.kept is not None:
        return SampleSizes.of_layers(subnetwork.kept, running)
    indices = (getattr(subnetwork, name) for name in INDICES)
    heads, kv_heads, columns = (n if idx is None else idx.shape[1] for n, idx in zip(spec.full, indices, strict=True))
    return SampleSizes(heads, kv_heads, columns, len(running))


def _heads_of(groups: Tensor, spec: ModelSpec) -> Tensor:
    """(L, k) KV groups -> (L, k * group size) their query heads, in order."""
    if spec.group_size == 1:
        return groups
    heads = groups.unsqueeze(-1) * spec.group_size + torch.arange(spec.group_size)
    return heads.flatten(1).clamp(max=spec.num_heads)


def _sample(key: tuple[int, ...], rows: int, n: int, counts: Sequence[int]) -> Tensor:
    """(len(counts), K) int64: in each row so many of range(n), uniform without replacement, sorted, and behind them n.

    `rows` are drawn; one that stands for several rows of `counts` gives all of them the same units, as far as they go.
    """
    keys, most = _keys(key, torch.arange(rows), n), max(counts)
    if min(counts) == most:
        return _least(keys, most).repeat(len(counts) // rows, 1)
    ranks = keys.argsort(dim=1).argsort(dim=1).repeat(len(counts) // rows, 1)
    drawn = ranks < torch.tensor(counts).unsqueeze(1)
    return torch.where(drawn, torch.arange(n), n).sort(dim=1).values[:, :most]


def sample_rows(key: tuple[int, ...], rows: Tensor, n: int, k: int) -> Tensor:
    """(len(rows), k) int64: k of range(n) in each row, uniform without replacement, sorted.

    `rows`, int64: the numbers that the rows have among any number of them.
    """
    return _least(_keys(key, rows, n), k)


def _keys(key: tuple[int, ...], rows: Tensor, n: int) -> Tensor:
    """(len(rows), n) int64, for each of n units in the rows of these numbers."""
    counters = rows.unsqueeze(1) * n + torch.arange(1, n + 1)
    return _mix(counters * _signed(_GOLDEN) + _signed(hash_numbers(key)))


def _least(keys: Tensor, k: int) -> Tensor:
    """(rows, k) int64: where the k smallest keys of each row stand, sorted."""
    return keys.topk(k, dim=1, largest=False, sorted=False).indices.sort(dim=1).values


def _uniform(keys: Tensor) -> Tensor:
    """float64 in [0, 1) of keys."""
    return _shift_right(keys, 11).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around as unsigned ones do."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically; the mask drops the sign


def hash_numbers(numbers: tuple[int, ...]) -> int:
    """One 64-bit number from several, the same on every machine and Python (unlike hash())."""
    state = 0
    for number in numbers:
        state = (state + _GOLDEN + number) & _WORD
        for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
            state = ((state ^ (state >> shift)) * multiplier) & _WORD
        state ^= state >> 31
    return state


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
