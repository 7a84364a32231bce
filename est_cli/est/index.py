"""Index generator: which heads, columns and layers run (paper, section 3.1).

The draw is a pure function of (seed, step, micro-step, rank): unit i gets a 64-bit key by hashing these numbers with
its position, and the k units with the smallest keys are the sample. That is uniform without replacement, needs no
generator state (resuming is exact, every rank draws the same), and is one vectorised operation for all layers.

Shapes: L layers, k units kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from zlib import crc32

import torch
from torch import Tensor

from .schedule import SamplingRates
from .sizes import DEFAULTS, SamplingOptions, sample_size, sample_sizes
from .spec import ModelSpec

_HEADS, _COLUMNS, _LAYERS = 1, 2, 3  # one independent stream of keys for each kind of unit
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # SplitMix64 (Steele, Lea, Flood 2014)
_WORD = (1 << 64) - 1


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
    layer_scale: float = 1.0
    """Factor on the residual branches of the layers that run."""

    def to(self, device: torch.device) -> Subnetwork:
        """The same subnetwork with its indices on `device`, sent there in one copy that nobody waits for."""
        parts = {name: idx for name in _INDICES if (idx := getattr(self, name)) is not None}
        if not parts or device.type == "cpu":
            return self
        packed = torch.cat([idx.reshape(-1) for idx in parts.values()])
        if device.type == "cuda":
            packed = packed.pin_memory()
        sent = packed.to(device, non_blocking=True).split([idx.numel() for idx in parts.values()])
        return replace(self, **{name: idx.view(parts[name].shape) for name, idx in zip(parts, sent, strict=True)})

    def checksum(self) -> int:
        """A 32-bit number that differs for different subnetworks, but for one in four billion; the same everywhere."""
        sum32 = crc32(repr((self.layer_idx, self.layer_scale)).encode())
        for name in _INDICES:
            if (idx := getattr(self, name)) is not None:
                sum32 = crc32(idx.contiguous().numpy(), sum32)
        return sum32


_INDICES = ("head_idx", "kv_idx", "mlp_idx")

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
        if rates.full:
            return FULL
        sizes = sample_sizes(self.spec, rates, self.options)
        at: tuple[int, ...] = (self.seed, step, micro_step if self.options.redraw == "forward" else 0)
        if self.options.ranks == "independent":
            at = (*at, rank)
        head_idx, kv_idx = self._draw_heads(at, rates.p_h, sizes.kv_heads)
        inverse = self.options.layer_scale == "inverse"
        return Subnetwork(
            layer_idx=self._draw_layers(at, sizes.layers),
            head_idx=head_idx,
            kv_idx=kv_idx,
            mlp_idx=self._draw_units((*at, _COLUMNS), self.spec.mlp_size, sizes.columns),
            layer_scale=self.spec.num_layers / sizes.layers if inverse else 1.0,
        )

    def _draw_layers(self, at: tuple[int, ...], k: int) -> tuple[int, ...] | None:
        n = self.spec.num_layers
        if k == n:
            return None
        ends = self.options.keep_ends
        first, size, count = (1, n - 2, k - 2) if ends else (0, n, k)
        drawn = _sample((*at, _LAYERS), rows=1, n=size, k=count)[0].tolist()
        layers = [first + layer for layer in drawn]
        return tuple([0, *layers, n - 1] if ends else layers)

    def _draw_units(self, key: tuple[int, ...], n: int, k: int) -> Tensor | None:
        """(L, k) sorted units out of n, or None where all n run."""
        if k == n:
            return None
        rows = self.spec.num_layers if self.options.per_layer else 1
        return _sample(key, rows, n, k).expand(self.spec.num_layers, k)

    def _draw_heads(self, at: tuple[int, ...], p_h: float, kv_heads: int) -> tuple[Tensor | None, Tensor | None]:
        """(head_idx, kv_idx): whole KV groups, or (kv_idx None) the same number of query heads from each group."""
        if p_h == 1.0:
            return None, None
        spec, key = self.spec, (*at, _HEADS)
        if self.options.kv_groups == "whole":
            groups = self._draw_units(key, spec.num_kv_heads, kv_heads)
            return (None, None) if groups is None else (_heads_of(groups, spec.group_size), groups)
        k = sample_size(p_h, spec.group_size)
        if k == spec.group_size:
            return None, None
        rows = spec.num_layers if self.options.per_layer else 1
        inside = _sample(key, rows * spec.num_kv_heads, spec.group_size, k).view(rows, spec.num_kv_heads, k)
        first_heads = torch.arange(spec.num_kv_heads).view(1, -1, 1) * spec.group_size
        return (inside + first_heads).view(rows, -1).expand(spec.num_layers, -1), None


def _heads_of(groups: Tensor, group_size: int) -> Tensor:
    """(L, k) KV groups -> (L, k * group_size) their query heads, in order."""
    if group_size == 1:
        return groups
    heads = groups.unsqueeze(-1) * group_size + torch.arange(group_size)
    return heads.flatten(1)


def _sample(key: tuple[int, ...], rows: int, n: int, k: int) -> Tensor:
    """(rows, k) int64: in each row k of range(n), uniform without replacement, sorted."""
    counters = torch.arange(1, rows * n + 1, dtype=torch.int64) * _signed(_GOLDEN) + _signed(hash_numbers(key))
    keys = _mix(counters).view(rows, n)
    return keys.topk(k, dim=1, largest=False, sorted=False).indices.sort(dim=1).values


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
