"""SplitMix64 (Steele, Lea, Flood 2014): numbers that are a pure function of others, the same on every machine.

Nothing random has a state: what is drawn in a step follows from the seed and the step, and a resume needs nothing
stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def hash_numbers(numbers: tuple[int, ...]) -> int:
    """One 64-bit number from several, the same on every machine and Python (unlike hash())."""
    state = 0
    for number in numbers:
        state = (state + _GOLDEN + number) & _WORD
        for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
            state = ((state ^ (state >> shift)) * multiplier) & _WORD
        state ^= state >> 31
    return state


def hashed(numbers: tuple[int, ...], like: Tensor) -> Tensor:
    """hash_numbers() as int64, in the shape of `like`: what further() goes on from."""
    return torch.full_like(like, _signed(hash_numbers(numbers)))


def further(state: Tensor, number: Tensor | int) -> Tensor:
    """hash_numbers() of one number more than `state`, int64, is the hash of."""
    return _mix(state + _signed(_GOLDEN) + number)


def numbered(state: Tensor | int, counters: Tensor) -> Tensor:
    """int64 hashes of `counters`, int64, under a hash: one of int64 tensors or of hash_numbers()."""
    return _mix(counters * _signed(_GOLDEN) + (_signed(state) if isinstance(state, int) else state))


def counted(state: Tensor | int, count: int) -> Tensor:
    """(..., count) int64: numbered() of 1, 2, ..., count, for each hash in `state`."""
    return numbered(
        state if isinstance(state, int) else state.unsqueeze(-1), torch.arange(1, count + 1, dtype=torch.int64)
    )


def uniform(keys: Tensor) -> Tensor:
    """float64 in [0, 1) of hashes."""
    return _shift_right(keys, 11).to(torch.float64) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around as unsigned ones do."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # torch shifts int64 arithmetically; the mask drops the sign


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
