"""Documents within training sequences: each ends with the tokenizer's end of text, and at both ends of a sequence.

B sequences, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def document_positions(tokens: Tensor, end_of_text: int) -> Tensor:
    """The place of each token in its document, or in what of that the sequence holds, from 0: (B, T) -> (B, T) int64.

    Where the tokens are; their values are not waited for.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    begins = pad(tokens[:, :-1] == end_of_text, (1, 0)) * places
    return places - begins.cummax(1).values


def attention_pairs(tokens: Tensor, end_of_text: int) -> Tensor:
    """The sum of the squares of the lengths of a sequence's documents: (B, T) -> (B,) int64."""
    return (2 * document_positions(tokens, end_of_text) + 1).sum(1)  # n^2 = 1 + 3 + ... + (2n - 1)
