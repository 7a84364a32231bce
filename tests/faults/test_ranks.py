"""C1 to C3: two processes of one run, of which one is lost or errs, or that train what one process trains."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from est_cli.storage.store import newest_valid
from tests.distributed.test_elastic import test_any_number_of_processes_goes_on as any_number_goes_on
from tests.distributed.test_failures import POINTS, _assert_survived
from tests.distributed.test_failures import test_a_lost_process_ends_the_run as a_lost_process_ends_the_run
from tests.distributed.test_sharded_checkpoints import FSDP, SHARDED, assert_same_checkpoints
from tests.distributed.test_training import SHORT, inputs
from tests.faults.conftest import Tally
from tests.faults.size import only_full
from tests.lab.lab import Lab, Plant

pytestmark = only_full
"""The short part is tests/distributed."""

RECORD: Plant = ("record_inputs", "inputs")
FAILS: dict[str, Plant] = {
    "in a step": ("at", "est_cli.training.step.forward_backward", 20, "before", "out of memory"),
    "in an evaluation": ("at", "est_cli.training.evaluation.validation_loss", 2, "before", "out of memory"),
}


@pytest.mark.row("C1")
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("signum", ["SIGKILL", "SIGSTOP"])
def test_a_lost_process_ends_the_run(lab: Lab, tally: Tally, signum: str, rank: int, half: int) -> None:
    a_lost_process_ends_the_run(lab, rank, signum, half)
    tally(kills=len(POINTS) // 2)


@pytest.mark.row("C1")
@pytest.mark.parametrize("where", FAILS)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_ends_the_run(lab: Lab, rank: int, where: str) -> None:
    ended = lab.tiny_ranks(2, "x", *SHORT, "train.micro_batch=2", plants={rank: [FAILS[where]]})
    assert ended[rank].code == 9 and "out of memory" in ended[rank].last_words[0], ended[rank].err
    _assert_survived(lab.at("x"), ended[1 - rank], where)
    assert newest_valid(lab.at("x") / "checkpoints", pytest.fail) is not None


WRITING = {
    0: (
        "write weights-00001",
        "fsync optim-00001",
        "write state.json",
        "write MANIFEST.json",
        "rename .tmp-",
        "rename step-",
    ),
    1: ("write weights-00002", "write optim-00002", "fsync optim-00002"),
}
"""Points of a save in shares, by rank."""


@pytest.mark.row("C1")
@pytest.mark.parametrize(("rank", "point"), [(rank, point) for rank, points in WRITING.items() for point in points])
def test_a_process_killed_while_it_writes_its_share(lab: Lab, tally: Tally, rank: int, point: str) -> None:
    """What is left is a checkpoint or none, and the run that goes on from it ends with the bits of one never killed."""
    whole = lab.tiny_ranks(2, "whole", *FSDP)
    killed = lab.tiny_ranks(2, "x", *SHARDED, plants={rank: [("at_fault_point", point, "SIGKILL")]})
    assert [killed[rank].code, killed[1 - rank].code] == [-9, 7], killed[1 - rank].err
    newest_valid(lab.at("x") / "checkpoints", pytest.fail)
    again = lab.tiny_ranks(2, "x", *SHARDED)
    assert [ended.code for ended in (*whole, *again)] == [0] * 4, again[0].err
    assert_same_checkpoints(lab, "x", "whole")
    assert not list(lab.at("x").rglob(".tmp-*"))
    tally(kills=1)


STEPS = (4, 6, 9, 13, 17)
"""In each stage, and at both transitions."""


@pytest.mark.row("C2")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (2, 1, 2)], ids=str)
def test_another_number_of_processes_goes_on(lab: Lab, counts: tuple[int, ...], step: int) -> None:
    """Samples and subnetworks of each step are those of one process alone, and the losses within 1e-5."""
    steps = (step,) if len(counts) == 2 else (step // 2, step)
    any_number_goes_on(lab, counts, steps, ())


LONG = (*SHORT, "train.max_steps=200", "stage.t1=80", "stage.t2=150", "train.eval_every=0", "train.checkpoint_every=0")


def own_draws(lab: Lab, *plants: Plant, everywhere: Sequence[Plant] = ()) -> list[bool]:
    """For each of 200 steps whether both ranks run the same; AssertionError where they do not come to the end.

    `plants` in rank 1, `everywhere` in both.
    """
    both = [RECORD, *everywhere]
    ended = lab.tiny_ranks(2, "x", *LONG, "train.micro_batch=4", plants={0: both, 1: [*both, *plants]})
    assert [rank.code for rank in ended] == [0, 0], ended[1].err
    return [first == second for _, (first, second) in inputs(lab.folder, 2)]


@pytest.mark.row("C3")
def test_both_ranks_run_the_same_subnetwork(lab: Lab) -> None:
    assert own_draws(lab) == [True] * 200


@pytest.mark.row("C3")
@pytest.mark.parametrize("step", [0, 30, 60, 100, 140])
def test_a_rank_that_draws_its_own_ends_the_run(lab: Lab, step: int) -> None:
    with pytest.raises(AssertionError, match=rf"drew another subnetwork in step {step + 1}\b"):
        own_draws(lab, ("draw_differently", step))
