"""What was not sampled, and Muon, in several processes: as in one, whatever their number."""

from __future__ import annotations

import pytest

from tests.distributed.test_training import DOUBLE, EXACT, assert_same_training
from tests.lab.lab import Lab, train_records

STEP = "est_cli.training.train.train_step"
SHORT = ("train.max_steps=9", "stage.t1=4", "stage.t2=7", "train.tokens_per_step=256", "launch.check_every=1")
SHORT = (*SHORT, "train.eval_every=0")
ZERO_LAYERS = "optim.skipped_layers=zero_grad"


def test_frozen_is_what_no_process_used(lab: Lab) -> None:
    """Each process draws its own subnetworks: checked against one process that runs them all."""
    settings = (*SHORT, *EXACT, "sampling.ranks=independent", "train.micro_batch=4", "optim.unsampled_rows=frozen")
    ended = lab.tiny_ranks(2, "own", *settings, ZERO_LAYERS, plants=dict.fromkeys((0, 1), DOUBLE))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    one = lab.tiny("one", *settings, ZERO_LAYERS, plants=[*DOUBLE, ("micro_batches_as_ranks",)])
    assert one.code == 0, one.err
    assert_same_training(lab.at("one"), lab.at("own"), rel=1e-10)


def test_layers_that_ran_nowhere_decay_where_they_are_spread(lab: Lab) -> None:
    settings = (*SHORT, *EXACT, ZERO_LAYERS, "sampling.redraw=forward")
    one = lab.tiny("one", *settings, "train.micro_batch=4", plants=DOUBLE)
    assert one.code == 0, one.err
    settings = (*settings, "train.micro_batch=2", "launch.strategy=fsdp")
    ended = lab.tiny_ranks(2, "two", *settings, plants=dict.fromkeys((0, 1), DOUBLE))
    assert [rank.code for rank in ended] == [0, 0], ended[0].err
    assert_same_training(lab.at("one"), lab.at("two"), rel=1e-10)


@pytest.mark.long
def test_muon_in_replicas_and_then_in_shares(lab: Lab) -> None:
    """Replicas stay equal (launch.check_every), and their checkpoint goes on sharded; bf16 rounds sums of sums anew."""
    settings = (*SHORT, "optim=muon", "train.micro_batch=2", "optim.lr=0.003")
    assert lab.tiny("one", *settings).code == 0
    stop = {1: [("at_step", STEP, 5, "before", "SIGTERM")]}
    assert [rank.code for rank in lab.tiny_ranks(2, "x", *settings, plants=stop)] == [143, 143]
    assert [rank.code for rank in lab.tiny_ranks(2, "x", *settings, "launch.strategy=fsdp")] == [0, 0]
    losses = [record["loss"] for record in train_records(lab.at("x"))]
    assert len(losses) == 9 and losses[-1] < losses[0] - 0.2
    assert losses == pytest.approx([record["loss"] for record in train_records(lab.at("one"))], rel=2e-3)
