"""The numbers that go along with a step's gradients: the loss, who was asked to stop, which subnetworks were drawn.

They are summed over the processes, so that all of them come to the same decisions at the same step without a word
more. A sum says whether all numbers were equal: W sum(x^2) = sum(x)^2 only then (Cauchy and Schwarz); the numbers are
small enough for doubles to hold these sums exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from est_cli.common.signals import STOPPING

_BITS = 20
SIZE = 1 + len(STOPPING) + 2


@dataclass(frozen=True)
class Agreed:
    """What all processes know after a step."""

    stop: int | None
    """The signal that asked one of them to stop."""
    same: bool
    """Whether all of them drew the same, and will in the next step."""


def step_header(loss: Tensor, stop: int | None, digests: Sequence[int]) -> Tensor:
    """(SIZE,) float64 on the loss's device, to be summed: loss, a place for each signal, a number and its square.

    The number is made of `digests`: of what this step runs, and of what the next one will.
    """
    short = crc32(repr(digests).encode()) & ((1 << _BITS) - 1)
    numbers = torch.tensor([*(float(stop == signum) for signum in STOPPING), short, short**2], dtype=torch.float64)
    if loss.is_cuda:
        numbers = numbers.pin_memory().to(loss.device, non_blocking=True)
    return torch.cat([loss.reshape(1).to(torch.float64), numbers])


def read_header(sums: Sequence[float], world_size: int) -> Agreed:
    """The agreement in the summed header, on the host."""
    assert len(sums) == SIZE
    stop = next((int(signum) for signum, count in zip(STOPPING, sums[1:], strict=False) if count), None)
    digests, squares = int(sums[-2]), int(sums[-1])
    return Agreed(stop, world_size * squares == digests**2)
