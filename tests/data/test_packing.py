"""Positions and attention pairs of documents, against counting token by token."""

from __future__ import annotations

import torch

from est_cli.data.packing import attention_pairs, document_positions

END = 0


def counted(row: list[int]) -> list[int]:
    """The position of each token; the end of a text belongs to what it ends."""
    positions, place = [], 0
    for token in row:
        positions.append(place)
        place = 0 if token == END else place + 1
    return positions


def test_positions_begin_anew_behind_each_end_of_text() -> None:
    tokens = torch.randint(0, 4, (50, 19), generator=torch.Generator().manual_seed(0))
    tokens[0], tokens[1] = 1, END  # one document, and nothing but ends
    expected = [counted(row) for row in tokens.tolist()]
    assert document_positions(tokens, END).tolist() == expected
    assert expected[0] == list(range(19)) and expected[1] == [0] * 19


def test_pairs_are_the_squares_of_the_lengths() -> None:
    tokens = torch.tensor([[1, 1, END, 1, END, END, 1, 1], [1] * 8, [END] * 8])  # 3, 2, 1 and 2 tokens; 8; 1 each
    assert attention_pairs(tokens, END).tolist() == [9 + 4 + 1 + 4, 64, 8]
