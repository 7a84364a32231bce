"""What runs in one forward and backward pass: indices of heads, columns and layers (the paper's I_H, I_M and I_L).

Shapes: L layers, k units kept (K the most, where layers differ).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from .sizes import SampleSizes
from .spec import Kept, ModelSpec, Unit


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

    def shares_of_layers(self, num_layers: int) -> list[float]:
        """The share of the sequences that each layer runs."""
        if self.sequence_idx is None:
            running = range(num_layers) if self.layer_idx is None else set(self.layer_idx)
            return [float(layer in running) for layer in range(num_layers)]
        share = self.sequence_idx.shape[1] / self.sequences
        return [1.0 if layer in self.whole_layers else share for layer in range(num_layers)]

    def to(self, device: torch.device) -> Subnetwork:
        """The same subnetwork with its indices on `device`, sent there in one copy that nobody waits for."""
        if device.type == "cpu":
            return self
        sent: dict[str, Any] = {}
        parts = {name: idx for name in _SENT if (idx := getattr(self, name)) is not None}
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
        for name in (*_SENT, "layer_scales"):
            if (idx := getattr(self, name)) is not None:
                sum32 = crc32(idx.contiguous().numpy(), sum32)
        return sum32


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


_INDEX_OF: dict[Unit, str] = {"head": "head_idx", "kv_head": "kv_idx", "column": "mlp_idx"}
INDICES = tuple(_INDEX_OF.values())
"""The fields of a Subnetwork that hold indices of units."""
_SENT = (*INDICES, "sequence_idx")

FULL = Subnetwork()
"""The complete model."""


def sizes_of(spec: ModelSpec, subnetwork: Subnetwork) -> SampleSizes:
    """What of the model that `spec` describes runs in a subnetwork."""
    running = range(spec.num_layers) if subnetwork.layer_idx is None else subnetwork.layer_idx
    if subnetwork.kept is not None:
        return SampleSizes.of_layers(subnetwork.kept, running)
    indices = (getattr(subnetwork, name) for name in INDICES)
    heads, kv_heads, columns = (n if idx is None else idx.shape[1] for n, idx in zip(spec.full, indices, strict=True))
    return SampleSizes(heads, kv_heads, columns, len(running))


def sizes_of_each(spec: ModelSpec, subnetwork: Subnetwork) -> list[SampleSizes]:
    """What runs of each sequence of a micro-batch, in their order; one for all, where it is the same."""
    sizes, idx = sizes_of(spec, subnetwork), subnetwork.sequence_idx
    if idx is None:
        return [sizes]
    drawn = [row for number, row in enumerate(idx) if number not in subnetwork.whole_layers]
    layers = torch.cat(drawn).bincount(minlength=subnetwork.sequences) + len(subnetwork.whole_layers)
    return [replace(sizes, layers=count) for count in layers.tolist()]
