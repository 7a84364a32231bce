"""A checkpoint belongs to the run and not to its processes: another number of them goes on with the same training."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.distributed.test_training import LLAMA, SHORT, inputs
from tests.lab.lab import Lab, Plant, train_records

STEP = "est_cli.training.train.train_step"
SHARES = "launch.sharded_checkpoints=true"
RECORD: Plant = ("record_inputs", "inputs")


def go_on(lab: Lab, count: int, *settings: str, until: int | None = None) -> list[int]:
    """Continue the run in `count` processes, to the end or until SIGTERM in one of them at step `until`."""
    stop: tuple[Plant, ...] = () if until is None else (("at_step", STEP, until, "before", "SIGTERM"),)
    plants: dict[int, Sequence[Plant]] = {rank: (RECORD, *(stop if rank == count - 1 else ())) for rank in range(count)}
    if count == 1:
        return [lab.tiny("x", *settings, plants=plants[0]).code]
    return [ended.code for ended in lab.tiny_ranks(count, "x", *settings, plants=plants)]


@pytest.mark.some(2)
@pytest.mark.parametrize(
    ("counts", "steps", "settings"),
    [
        pytest.param((2, 1), (9,), (), marks=pytest.mark.long),
        ((1, 2), (5,), ()),
        ((2, 1, 2), (6, 14), LLAMA),
        ((2, 4), (12,), ("launch.strategy=fsdp", "launch.shard_size=2", SHARES)),
        pytest.param((4, 1), (3,), ("launch.strategy=fsdp",), marks=pytest.mark.long),
        pytest.param((4, 1), (3,), ("launch.strategy=fsdp", SHARES), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_any_number_of_processes_goes_on(
    lab: Lab, counts: tuple[int, ...], steps: tuple[int, ...], settings: tuple[str, ...]
) -> None:
    settings = (*SHORT, *settings, "train.micro_batch=2")
    assert lab.tiny("one", *settings, plants=[RECORD]).code == 0
    expected = [(samples, drawn[0]) for samples, drawn in inputs(lab.folder, 1)]
    seen = []
    for count, until in zip(counts, (*steps, None), strict=True):
        assert go_on(lab, count, *settings, until=until) == [0 if until is None else 143] * count
        together = inputs(lab.folder, count)
        assert all(drawn == [drawn[0]] * count for _, drawn in together)
        seen += [(samples, drawn[0]) for samples, drawn in together]
    assert seen == expected, "the same samples and subnetworks in every step, each step once"
    losses = [record["loss"] for record in train_records(lab.at("x"))]
    assert losses == pytest.approx([record["loss"] for record in train_records(lab.at("one"))], rel=1e-5)


ONE_NUMBER = (
    "sampling.redraw=forward",
    "sampling.ranks=independent",
    "sampling.layers_by=sequence",
    "model.dropout=0.1",
)


@pytest.mark.parametrize("setting", [ONE_NUMBER[0], *(pytest.param(x, marks=pytest.mark.long) for x in ONE_NUMBER[1:])])
def test_where_the_processes_decide_what_is_drawn_their_number_stays(lab: Lab, setting: str) -> None:
    settings = (*SHORT, setting)
    assert go_on(lab, 2, *settings, until=9) == [143, 143]
    ended = lab.tiny("x", *settings)
    assert ended.code == 2 and "launch.num_processes" in ended.last_words[0] and "2 processes" in ended.last_words[0]
    assert go_on(lab, 2, *settings) == [0, 0]


def test_a_step_must_divide_among_the_processes(lab: Lab) -> None:
    ended = lab.tiny_ranks(3, "x", *SHORT)
    assert [rank.code for rank in ended] == [2, 2, 2]
    assert "the 8 sequences of a step (train.tokens_per_step) do not divide among 3 processes" in ended[0].last_words[0]
    assert not lab.at("x").exists()
