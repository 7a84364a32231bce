"""Examples as token ids, and the order of an epoch."""

from __future__ import annotations

import pytest
import torch

from est_cli.evaluation.classifier import collate, encode, epoch_order, steps_of
from est_cli.evaluation.glue import Example
from est_cli.models.pretrained import Checkpoint, open_checkpoint
from tests.lab.small_models import save


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint("checkpoint", str(save(tmp_path_factory.mktemp("gpt2"))))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint("checkpoint", str(save(tmp_path_factory.mktemp("bert"), "bert")))


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in (0, 1, 2**63 - 1) for epoch in range(3)}
    torch.manual_seed(7)
    assert all(epoch_order(50, *key) == order and sorted(order) == list(range(50)) for key, order in orders.items())
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    assert epoch_order(8, 0, 0) == [3, 2, 5, 1, 0, 6, 4, 7]  # on every machine


@pytest.mark.parametrize(
    ("count", "batch", "epochs", "expected"),
    [
        (64, 32, 3.0, (6, 2)),
        (65, 32, 1.0, (3, 3)),
        (64, 32, 0.5, (1, 2)),
        (10, 32, 0.1, (1, 1)),
        (960, 32, 0.1, (3, 30)),
    ],
)
def test_steps(count: int, batch: int, epochs: float, expected: tuple[int, int]) -> None:
    assert steps_of(count, batch, epochs) == expected


def text_of(checkpoint: Checkpoint, ids: list[int]) -> str:
    return str(checkpoint.tokenizer.decode(ids))


def test_a_decoder_reads_a_pair_with_a_line_break_between(decoder: Checkpoint) -> None:
    found = encode([Example(("one", "two"), 1.0), Example(("a", ""), 0.0)], decoder, 40)
    assert [text_of(decoder, row["input_ids"]) for row in found.rows] == ["one\ntwo", "a\n"]
    assert (found.labels, found.truncated, set(found.rows[0])) == ([1.0, 0.0], 0, {"input_ids"})


def test_an_encoder_reads_a_pair_with_its_own_marks(encoder: Checkpoint) -> None:
    (row,) = encode([Example(("one", "two"), 1.0)], encoder, 40).rows
    assert text_of(encoder, row["input_ids"]) == "[CLS]one[SEP]two[SEP]"
    assert row["token_type_ids"] == [0] * 5 + [1] * 4


def test_of_too_long_pairs_the_longer_text_loses_its_end(decoder: Checkpoint, encoder: Checkpoint) -> None:
    examples = [Example(("abcdefghij", "xy"), 0.0), Example(("ab", "xy"), 0.0), Example(("ab", "uvwxyz" * 9), 0.0)]
    found = encode(examples, decoder, 8)
    assert [text_of(decoder, row["input_ids"]) for row in found.rows] == ["abcde\nxy", "ab\nxy", "ab\nuvwxy"]
    assert found.truncated == 2
    assert [len(row["input_ids"]) for row in encode(examples, encoder, 9).rows] == [9, 7, 9]


def test_an_empty_text_is_a_token_still(decoder: Checkpoint) -> None:
    assert encode([Example(("",), 0.0)], decoder, 8).rows == [{"input_ids": [decoder.pad_id]}]


def test_a_batch_is_filled_up_on_the_right() -> None:
    batch = collate([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}], 1, torch.device("cpu"))
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 1, 1]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }
