"""Draws of a fixed size in which each unit has a probability of its own."""

from __future__ import annotations

import torch
from torch import Tensor


def systematic(order: Tensor, start: Tensor, chances: Tensor) -> Tensor:
    """(S, n) bool: in each row exactly as many of n as their `chances` (n,) sum to, each with its own (Madow 1949).

    The chances are laid end to end in the row's `order` (S, n). Drawn is who covers `start` (S, 1), in [0, 1), or a
    whole number more. Where each row has a random order of its own, any two can be drawn together.
    """
    ends = chances[order].cumsum(dim=1)
    ends[:, -1] = chances.sum().round()
    covered = torch.ceil(ends - start)
    drawn = covered > torch.cat([torch.zeros_like(start), covered[:, :-1]], dim=1)
    return torch.zeros_like(drawn).scatter_(1, order, drawn)
