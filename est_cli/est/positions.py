"""Which predictions a loss is the mean of: at the rate p_t as many of every sequence, drawn anew in each step.

The LM head sees the drawn positions alone. Their mean loss is an unbiased estimate of the mean over all predictions,
and its gradient one of that mean's: each position is as likely as any other, and all sequences have equally many.

The draw is a pure function of (seed, step, number of the sequence in the step), so that neither micro-batches nor
processes change it, and nothing of it is stored.

Shapes: B sequences, T tokens, k positions drawn of a sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .independent import sample_rows
from .sizes import position_count

_POSITIONS = 4
"""Sets these keys apart from those of heads, columns and layers (see index.py)."""


def draw_positions(seed: int, step: int, sequences: Tensor, seq_len: int, p_t: float) -> Tensor | None:
    """(B, k) int64, sorted in each row: the positions of each sequence whose prediction of the next token counts.

    `sequences` (B,) int64: which ones of the step they are, over all processes. None: all positions, where p_t is 1.
    """
    if p_t == 1.0:
        return None
    return sample_rows((seed, step, _POSITIONS), sequences, seq_len - 1, position_count(p_t, seq_len))


def first_positions(sequences: int, seq_len: int, p_t: float, device: torch.device | str = "cpu") -> Tensor | None:
    """As many as draw_positions() draws, in the same places of every sequence: to see what they cost."""
    if p_t == 1.0:
        return None
    return torch.arange(position_count(p_t, seq_len), device=device).repeat(sequences, 1)
