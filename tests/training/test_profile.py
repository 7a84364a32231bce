"""A profiler trace on request: of the steps asked for, whatever ends the run, and never in its way."""

from __future__ import annotations

import json

import pytest

from tests.lab.lab import Lab, losses

SHORT = ("train.max_steps=6", "stage.t1=2", "stage.t2=4", "train.eval_every=0", "train.checkpoint_every=0")
STOP = ("at_step", "est_cli.training.train.train_step", 3, "after", "SIGTERM")


def traced(lab: Lab) -> dict[str, set[str]]:
    """The steps in each trace."""
    files = sorted((lab.at("x") / "profile").glob("*"))
    events = {path.name: json.loads(path.read_text())["traceEvents"] for path in files}
    return {
        name: {event["name"] for event in found if str(event.get("name")).startswith("step ")}
        for name, found in events.items()
    }


@pytest.mark.parametrize(
    ("first", "count", "file", "steps"),
    [
        (2, 2, "steps-000002-000003.json", {"step 2", "step 3"}),
        (6, 3, "steps-000006-000006.json", {"step 6"}),
    ],
)
def test_the_trace_holds_the_steps_asked_for(lab: Lab, first: int, count: int, file: str, steps: set[str]) -> None:
    ended = lab.tiny("x", *SHORT, f"train.profile_step={first}", f"train.profile_steps={count}")
    assert ended.code == 0 and f"profile   outputs/x/profile/{file}" in ended.err
    assert traced(lab) == {file: steps}


def test_a_run_that_is_stopped_writes_what_it_has_and_goes_on(lab: Lab) -> None:
    profile = ("train.profile_step=3", "train.profile_steps=4")
    assert lab.tiny("x", *SHORT, *profile, plants=[STOP]).code == 143
    assert traced(lab) == {"steps-000003-000004.json": {"step 3", "step 4"}}
    assert lab.tiny("x", *SHORT, *profile).code == 0
    assert traced(lab).keys() == {"steps-000003-000004.json", "steps-000005-000006.json"}


def test_steps_that_are_done_already_are_told(lab: Lab) -> None:
    assert lab.tiny("x", *SHORT, plants=[STOP]).code == 143
    ended = lab.tiny("x", *SHORT, "train.profile_step=2", "train.profile_steps=2")
    assert ended.code == 0 and "profile   none: steps 2 to 3 are done already" in ended.err
    assert not (lab.at("x") / "profile").exists()


def test_a_trace_that_cannot_be_written_stops_nothing(lab: Lab) -> None:
    assert lab.tiny("x", *SHORT, plants=[STOP]).code == 143
    (lab.at("x") / "profile").write_text("in the way")
    ended = lab.tiny("x", *SHORT, "train.profile_step=5", "train.profile_steps=1")
    assert ended.code == 0 and "warning: no profile written to outputs/x/profile/steps-000005-000005.json" in ended.err
    assert len(losses(lab.at("x"))) == 6
