import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from est_cli.common.errors import DataError
from est_cli.data.blocks import BlockOrder, TokenBlocks
from est_cli.data.tokens.stream import Tokens
from tests.lab.corpora import token_file


@pytest.mark.parametrize("num_blocks", [1, 2, 7, 100])
def test_each_epoch_takes_every_block_once(num_blocks: int) -> None:
    order = BlockOrder(num_blocks, seed=3)
    for epoch in range(4):
        assert sorted(order.blocks(epoch * num_blocks, num_blocks)) == list(range(num_blocks))


def test_order_is_a_pure_function_of_the_sample_index() -> None:
    whole = BlockOrder(10, seed=0).blocks(0, 57)
    for first in (0, 3, 9, 10, 29, 41):
        np.testing.assert_array_equal(BlockOrder(10, seed=0).blocks(first, 16), whole[first : first + 16])
    order = BlockOrder(10, seed=0)
    backwards = [order.blocks(index, 1)[0] for index in reversed(range(57))]
    np.testing.assert_array_equal(backwards[::-1], whole)


def test_epochs_and_seeds_differ() -> None:
    order = BlockOrder(50, seed=0)
    assert order.blocks(0, 50).tolist() != order.blocks(50, 50).tolist()
    assert order.blocks(0, 50).tolist() != BlockOrder(50, seed=1).blocks(0, 50).tolist()


@pytest.mark.slow
def test_order_is_equal_after_a_fresh_start() -> None:
    code = "from est_cli.data.blocks import BlockOrder; print(BlockOrder(20, 5).blocks(7, 40).tolist())"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == str(BlockOrder(20, 5).blocks(7, 40).tolist())


def test_known_order() -> None:
    """A change of these numbers would break the resume of every run that was started before."""
    assert BlockOrder(8, seed=0).blocks(0, 16).tolist() == [2, 4, 3, 6, 5, 0, 1, 7, 1, 3, 7, 6, 0, 4, 2, 5]


def test_take_gives_blocks_as_int64(tmp_path: Path) -> None:
    blocks = TokenBlocks(Tokens((token_file(tmp_path / "tokens.bin", np.arange(35)),)), seq_len=10)
    taken = blocks.take(np.array([2, 0]))
    assert blocks.num_blocks == 3
    assert taken.dtype == torch.int64
    assert taken.tolist() == [list(range(20, 30)), list(range(10))]


def test_shorter_than_a_block_says_both_lengths(tmp_path: Path) -> None:
    ten, nine = (token_file(tmp_path / str(count), np.zeros(count)) for count in (10, 9))
    assert TokenBlocks(Tokens((ten,)), 10).num_blocks == 1
    with pytest.raises(DataError, match=r"validation set has 9 tokens.*train\.seq_len=10"):
        TokenBlocks(Tokens((nine,)), 10, "validation")
    with pytest.raises(DataError, match=r"training set of source 2 of dataset\.weights has 9 tokens"):
        TokenBlocks(Tokens((ten, nine)), 10)
