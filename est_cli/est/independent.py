"""Draws of k of n units that depend on no other draw: uniform without replacement, from hashed keys alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .hashing import hash_numbers, numbered


def sample(key: tuple[int, ...], rows: int, n: int, counts: Sequence[int]) -> Tensor:
    """(len(counts), K) int64: in each row so many of range(n), uniform without replacement, sorted, and behind them n.

    `rows` are drawn; one that stands for several rows of `counts` gives all of them the same units, as far as they go.
    """
    keys, most = keys_of(key, torch.arange(rows), n), max(counts)
    if min(counts) == most:
        return least(keys, most).repeat(len(counts) // rows, 1)
    ranks = keys.argsort(dim=1).argsort(dim=1).repeat(len(counts) // rows, 1)
    drawn = ranks < torch.tensor(counts).unsqueeze(1)
    return torch.where(drawn, torch.arange(n), n).sort(dim=1).values[:, :most]


def sample_rows(key: tuple[int, ...], rows: Tensor, n: int, k: int) -> Tensor:
    """(len(rows), k) int64: k of range(n) in each row, uniform without replacement, sorted.

    `rows`, int64: the numbers that the rows have among any number of them.
    """
    return least(keys_of(key, rows, n), k)


def keys_of(key: tuple[int, ...], rows: Tensor, n: int) -> Tensor:
    """(len(rows), n) int64, for each of n units in the rows of these numbers."""
    return numbered(hash_numbers(key), rows.unsqueeze(1) * n + torch.arange(1, n + 1))


def least(keys: Tensor, k: int) -> Tensor:
    """(rows, k) int64: where the k smallest keys of each row stand, sorted."""
    return keys.topk(k, dim=1, largest=False, sorted=False).indices.sort(dim=1).values
