"""The loop as it runs on a GPU, ahead of what it reads, gives the same run to the last bit as the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from est_cli.common.errors import DataError
from est_cli.distributed import StepPlan
from est_cli.tracking import read_metrics
from est_cli.training.feed import Feed
from est_cli.training.inputs import StepInputs
from tests.lab.lab import Lab, outcome

Golden = Callable[..., dict[str, Any]]
AHEAD = ("device_works_on_its_own",)
STEP = "est_cli.training.train.train_step"


@pytest.mark.some(1)
@pytest.mark.parametrize("settings", [(), ("sampling.redraw=forward", "model.dropout=0.1")], ids=["step", "forward"])
def test_the_same_run(lab: Lab, golden: Golden, settings: tuple[str, ...]) -> None:
    ended = lab.tiny("x", *settings, plants=[AHEAD])
    assert ended.code == 0, ended.err
    assert outcome(lab.at("x")) == golden(*settings)


def test_a_step_is_read_when_the_next_one_runs(lab: Lab) -> None:
    """And at once where something follows that needs it: a transition at 2 and 4, the end at 6."""
    short = (
        "train.max_steps=6",
        "stage.t1=2",
        "stage.t2=4",
        "train.eval_every=0",
        "train.checkpoint_every=0",
        "optim.decay=0",
    )
    calls = lab.folder / "calls"
    assert lab.tiny("x", *short, plants=[AHEAD, ("write_calls", str(calls))]).code == 0
    order = [" ".join(line.split()[:2]) for line in calls.read_text().splitlines()]
    assert order == [f"{what} {n + k}" for n in (0, 2, 4) for what in ("launch", "account") for k in (0, 1)]


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "plant",
    [
        ("at_step", STEP, 7, "before", "SIGKILL"),
        ("at_step", STEP, 12, "after", "SIGKILL"),
        ("at", "est_cli.training.train._account", 17, "before", "SIGKILL"),
        ("at_fault_point", "write MANIFEST.json", "SIGKILL"),
        ("at_fault_point", "rename .tmp-step-000015", "SIGKILL"),
    ],
    ids=lambda plant: f"{plant[1]} {plant[2]}",
)
def test_the_same_run_after_a_kill(lab: Lab, golden: Golden, plant: tuple) -> None:
    assert lab.tiny("x", plants=[AHEAD, plant]).code == -9
    assert lab.tiny("x", plants=[AHEAD]).code == 0
    assert outcome(lab.at("x")) == golden()


def test_the_same_run_after_a_signal(lab: Lab, golden: Golden) -> None:
    ended = lab.tiny("x", plants=[AHEAD, ("at_step", STEP, 12, "before", "SIGTERM")])
    assert ended.code == 143 and "saved at step 13" in ended.last_words[0]
    assert lab.tiny("x", plants=[AHEAD]).code == 0
    assert outcome(lab.at("x")) | {"checkpoints": ...} == golden() | {"checkpoints": ...}


def test_gradients_that_are_not_finite_are_noticed_a_step_late(lab: Lab) -> None:
    ended = lab.tiny("x", "train.checkpoint_every=0", plants=[AHEAD, ("not_finite", [3, 5, 7])])
    assert ended.code == 5 and "last at step 4 (samples 12 to 15)" in ended.last_words[0]
    events = [record["step"] for record in read_metrics(lab.at("x") / "metrics.jsonl") if "event" in record]
    assert events == [2, 3, 4]


def test_a_feed_makes_the_next_inputs_ahead_and_no_more() -> None:
    made: list[int] = []

    def make(step: int) -> StepInputs:
        made.append(step)
        if step == 5:
            raise DataError("corpus: gone")
        return StepInputs(None, StepPlan((step,), 1, None))  # type: ignore[arg-type]

    feed = Feed(make, ahead=True)
    assert [feed.take(step, last=False).plan.subnetworks for step in (2, 3)] == [(2,), (3,)]
    feed.close()
    assert made[:2] == [2, 3] and set(made) <= {2, 3, 4}
    feed = Feed(make, ahead=True)
    feed.take(4, last=False)
    with pytest.raises(DataError, match="corpus"):
        feed.take(5, last=True)
    feed.close()
    made.clear()
    Feed(make, ahead=True).take(9, last=True)
    assert made == [9]
