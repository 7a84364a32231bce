"""Two processes train what one process trains, under every scheduler, and across every transition."""

from __future__ import annotations

import pytest

from tests.distributed.test_training import DOUBLE, EXACT, assert_same_training
from tests.lab.lab import Lab, Plant, sha256_of
from tests.training.test_schedulers import LAST, SCHEDULERS, STEPS, settings

SHARDED = ("gradual_stacking", "g_stack", "pld", "linear")
SHORT = (*EXACT, "train.checkpoint_every=0", "train.eval_every=6", "launch.check_every=1")
AS_RANKS: tuple[Plant, ...] = (("dropout_as_ranks",),)
"""Two processes cut a step into two parts with random numbers of their own; so must one, or the masks are others."""


SOME = ("gradual_stacking", "pld", "early_dropout")


@pytest.mark.some(2)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n not in SOME)) for n in SCHEDULERS])
def test_two_processes_train_what_one_trains(lab: Lab, name: str) -> None:
    parts = name == "early_dropout"
    size = "train.micro_batch=2" if parts else "train.micro_batch=4"
    one = lab.tiny("one", *settings(name), *SHORT, size, plants=[*DOUBLE, *(AS_RANKS if parts else ())])
    assert one.code == 0, one.err
    for strategy in ("ddp", "fsdp") if name in SHARDED else ("ddp",):
        strategy_settings = (*settings(name), *SHORT, f"launch.strategy={strategy}", "train.micro_batch=2")
        ended = lab.tiny_ranks(2, strategy, *strategy_settings, plants=dict.fromkeys((0, 1), DOUBLE))
        assert [rank.code for rank in ended] == [0, 0], ended[0].err + ended[1].err
        assert_same_training(lab.at("one"), lab.at(strategy), rel=1e-10)


@pytest.mark.parametrize("options", [("sampling.ranks=independent",), ("sampling.redraw=forward",)])
def test_two_processes_keep_to_the_plan_of_random_sizes(lab: Lab, options: tuple[str, ...]) -> None:
    """What each process draws is counted once, whoever draws it."""
    ended = lab.tiny_ranks(2, "two", *settings("layer_dropout"), *SHORT, *options, "train.micro_batch=1")
    assert [rank.code for rank in ended] == [0, 0], ended[0].err + ended[1].err
    lines = ended[0].err.splitlines()
    told = next(line.split()[1] for line in lines if line.startswith("saving "))
    found = next(line for line in ended[0].out.splitlines() if "FLOPs saved" in line)
    assert f"{told} % blocks" in found and told != "0.00"


@pytest.mark.long
def test_a_grown_run_of_two_continues_bit_for_bit(lab: Lab) -> None:
    """Killed after the checkpoint of the last transition and before the copies are made."""
    whole = lab.tiny_ranks(2, "whole", *settings("gradual_stacking"), "launch.strategy=fsdp")
    kill = dict.fromkeys((0, 1), (("at_step", "est_cli.training.train.train_step", LAST, "before", "SIGKILL"),))
    killed = lab.tiny_ranks(2, "killed", *settings("gradual_stacking"), "launch.strategy=fsdp", plants=kill)
    again = lab.tiny_ranks(2, "killed", *settings("gradual_stacking"), "launch.strategy=fsdp")
    assert [[rank.code for rank in ranks] for ranks in (whole, killed, again)] == [[0, 0], [-9, -9], [0, 0]]
    assert sha256_of(lab.at("killed"), STEPS) == sha256_of(lab.at("whole"), STEPS)
