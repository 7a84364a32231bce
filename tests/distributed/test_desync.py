"""Processes that come to train different things are stopped, and the one that differs is named."""

from __future__ import annotations

import pytest

from tests.distributed.test_training import SHORT
from tests.lab.lab import Lab, Plant, train_records


@pytest.mark.some(2)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_another_draw_is_noticed_before_its_step(lab: Lab, rank: int, strategy: str) -> None:
    """The same sizes and another index: nothing else would ever tell. In stage 2, so that FSDP runs the same layers."""
    ended = lab.tiny_ranks(
        2, "x", *SHORT, "launch.check_every=0", f"launch.strategy={strategy}", plants={rank: [("draw_differently", 8)]}
    )
    assert [each.code for each in ended] == [7, 7]
    assert "rank 1: drew another subnetwork in step 9 than rank 0's" in ended[0].last_words[0]
    assert [record["step"] for record in train_records(lab.at("x"))] == [*range(1, 9)]


def test_another_draw_is_noticed_before_the_first_step(lab: Lab) -> None:
    ended = lab.tiny_ranks(2, "x", *SHORT, "launch.check_every=0", plants={1: [("draw_differently", 0)]})
    assert [each.code for each in ended] == [7, 7]
    assert "rank 1: drew another subnetwork in step 1 than rank 0's" in ended[0].last_words[0]


@pytest.mark.parametrize("every", [1, 4])
def test_other_weights_are_noticed_at_the_next_look(lab: Lab, every: int) -> None:
    plant: Plant = ("flip_a_bit", 5)
    ended = lab.tiny_ranks(2, "x", *SHORT, f"launch.check_every={every}", plants={1: [plant]})
    assert [each.code for each in ended] == [7, 7]
    seen = -(-6 // every) * every
    assert f"rank 1: its weights after step {seen} are not rank 0's" in ended[0].last_words[0]


def test_other_weights_are_noticed_before_the_first_step(lab: Lab) -> None:
    ended = lab.tiny_ranks(2, "x", *SHORT, "launch.check_every=50", plants={1: [("other_first_weights",)]})
    assert [each.code for each in ended] == [7, 7]
    assert "rank 1: its weights before the first step are not rank 0's" in ended[0].last_words[0]


def test_nobody_looks_at_the_weights_where_that_is_off(lab: Lab) -> None:
    ended = lab.tiny_ranks(2, "x", *SHORT, "launch.check_every=0", plants={1: [("flip_a_bit", 5)]})
    assert [each.code for each in ended] == [0, 0]


def test_other_settings_are_noticed_before_anything_is_written(lab: Lab) -> None:
    arguments = lab.arguments("run_name=x", *SHORT, "launch.timeout_s=20")
    ended = lab.ranks_ended(lab.start_ranks(2, *arguments, plants={1: [("another_learning_rate",)]}))
    assert [each.code for each in ended] == [7, 7]
    assert "rank 1: its settings, data or tokenizer are not rank 0's" in ended[0].last_words[0]
    assert not lab.at("x").exists()
