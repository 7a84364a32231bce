"""What is done about spikes: a step that is left out changes nothing, and going back is training on other samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from est_cli.storage.store import step_folders
from est_cli.tracking import read_metrics
from tests.lab.lab import Lab, Plant, Server, losses, outcome, sha256_of, train_records, write_corpus

BATCH, SPIKE, PLACE = 4, 22, 20
"""Sequences of a step; the step (0-based) that reads bad samples; the checkpoint before it."""
BAD: Plant = ("bad_samples", BATCH * SPIKE, BATCH * SPIKE, 100.0)
ALL_BAD: Plant = ("bad_samples", BATCH * SPIKE, 10**9, 100.0)
PASSED = BATCH * (SPIKE + 1 - PLACE)
AHEAD: Plant = ("device_works_on_its_own",)
WINDOW = ("train.spike_window=8", "train.spike_threshold=20")
SKIP, REWIND = ("train.on_spike=skip", *WINDOW), ("train.on_spike=rewind", *WINDOW)


def trained(lab: Lab, name: str, *overrides: str, plants: Sequence[Plant] = (BAD,)) -> Path:
    ended = lab.tiny(name, *overrides, plants=plants)
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    return lab.at(name)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if record.get("event") == kind]


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def weights(run: Path) -> dict[str, str]:
    """Of the last step; without the state, which holds the window."""
    return sha256_of(run, 30)


@pytest.mark.parametrize("plants", [[BAD], [BAD, AHEAD]], ids=["at once", "a step late"])
def test_a_spike_is_left_out(lab: Lab, plants: list[Plant]) -> None:
    """As a step is whose gradient is not finite, which is told and trained by another way."""
    run = trained(lab, "x", *SKIP, plants=plants)
    reference = trained(lab, "reference", plants=[("not_finite", [2 * SPIKE + 2])])
    assert weights(run) == weights(reference)
    (event,) = events(run, "skipped")
    assert (event["step"], event["first_sample"], event["samples"]) == (SPIKE + 1, BATCH * SPIKE, BATCH)
    assert event["spike_loss"] == losses(run)[SPIKE] > event["loss_limit"] > losses(run)[SPIKE - 1]
    assert summary(run)["skipped_steps"] == 1


@pytest.mark.parametrize("plants", [[BAD], [BAD, AHEAD]], ids=["at once", "a step late"])
def test_going_back_is_reading_on_behind_the_spike(lab: Lab, plants: list[Plant]) -> None:
    run = trained(lab, "x", *REWIND, plants=plants)
    trained(lab, "reference", plants=[("pass_over", BATCH * PLACE, PASSED)])
    assert weights(run) == weights(lab.at("reference"))
    assert losses(run) == losses(lab.at("reference")), "of the steps that were undone there is no record"
    (event,) = events(run, "rewind")
    told = {"event": "rewind", "step": PLACE + 1, "from_step": SPIKE + 1, "times": 1}
    assert event == event | told | {"first_sample": BATCH * PLACE, "samples": PASSED}
    assert [r["passed_samples"] for r in train_records(run)] == [0] * PLACE + [PASSED] * 10


@pytest.mark.long
def test_going_back_in_a_run_whose_batch_grows(lab: Lab) -> None:
    """Steps of stage 3 read 8 samples: step 20 begins with sample 4 * 18 + 8 * 2, the spike with 8 * 2 more."""
    grows, first = "train.tokens_per_step=[128,128,256]", 88
    run = trained(lab, "x", *REWIND, grows, plants=[("bad_samples", first + 16, first + 16, 100.0)])
    trained(lab, "reference", grows, plants=[("pass_over", first, 24)])
    assert weights(run) == weights(lab.at("reference"))
    assert [(event["first_sample"], event["samples"]) for event in events(run, "rewind")] == [(first, 24)]


@pytest.mark.long
def test_what_was_undone_was_spent(lab: Lab) -> None:
    """Three steps more than were planned; all of stage 3 cost the same."""
    run, plain = trained(lab, "x", *REWIND), trained(lab, "plain", plants=[])
    step = train_records(plain)[-1]["flops"] - train_records(plain)[-2]["flops"]
    found, expected = summary(run), summary(plain)
    assert (found["rewinds"], found["passed_samples"], found["flops_passed_over"]) == (1, PASSED, 3 * step)
    assert found["flops"] == expected["flops"] + 3 * step and found["flops_dense"] == expected["flops_dense"]
    assert (found["steps"], found["tokens"]) == (expected["steps"], expected["tokens"])
    assert lab.tool("report", str(run), str(plain)).code == 0, "a page of a run with such lines"
    assert "rewinds" not in expected and not {"passed_samples", "skipped_steps"} & train_records(plain)[-1].keys()


def test_a_run_that_was_stopped_goes_back_to_the_same_place(lab: Lab) -> None:
    """Not to the checkpoint that it was stopped with, however often that was."""
    whole = trained(lab, "whole", *REWIND)
    for step in (20, 21):
        stop: Plant = ("at_step", "est_cli.training.train.train_step", step, "after", "SIGTERM")
        assert lab.tiny("x", *REWIND, plants=[BAD, stop]).code == 143
    assert [step for step, _ in step_folders(lab.at("x") / "checkpoints")][-3:] == [20, 21, 22]
    assert outcome(trained(lab, "x", *REWIND)) == outcome(whole)
    assert not [*(lab.at("x") / "checkpoints").glob("aside-*")]


def test_samples_that_are_bad_for_good_end_the_run(lab: Lab) -> None:
    ended = lab.tiny("x", *REWIND, plants=[ALL_BAD])
    assert ended.code == 5 and len(ended.last_words) == 1 and "Traceback" not in ended.err
    told = f"after the run has gone back to step {PLACE} 2 times; lower optim.lr or raise train.spike_threshold: fork="
    assert told in ended.last_words[0] and f"@{PLACE} " in ended.last_words[0]
    (event,) = events(lab.at("x"), "rewind")
    assert (event["times"], event["samples"]) == (2, PASSED + 2 * BATCH), "one record for one place"
    forked = lab.train(f"fork={lab.at('x')}@{PLACE}", "run_name=y", "train.spike_threshold=1e6", plants=[ALL_BAD])
    assert forked.code == 0, forked.err


def test_a_fork_goes_on_behind_the_samples_that_were_passed_over(lab: Lab) -> None:
    run = trained(lab, "x", *REWIND)
    forked = lab.train(f"fork={run}@25", "run_name=y", plants=[BAD])
    assert forked.code == 0 and weights(lab.at("y")) == weights(run), forked.err


def test_a_fork_goes_back_to_where_it_began(lab: Lab) -> None:
    trained(lab, "x", *REWIND, plants=[])
    spike: Plant = ("bad_samples", 27 * BATCH, 27 * BATCH, 100.0)
    forked = lab.train(f"fork={lab.at('x')}@25", "run_name=y", "train.checkpoint_every=50", plants=[spike])
    assert forked.code == 0, forked.err
    assert [(event["step"], event["from_step"]) for event in events(lab.at("y"), "rewind")] == [(26, 28)]


@pytest.mark.long
def test_a_run_that_shares_its_beginning_goes_back_as_it_would_alone(lab: Lab) -> None:
    """Not to the other's transition at step 18, after which it would have no checkpoint itself."""
    sharing, early = ("sweep=s", "share_prefix=true"), ("bad_samples", 18 * BATCH, 18 * BATCH, 100.0)
    trained(lab, "other", *REWIND, *sharing, plants=[])
    trained(lab, "x", *REWIND, *sharing, "stage.t2=19", plants=[early])
    alone = trained(lab, "alone", *REWIND, "stage.t2=19", plants=[early])
    assert (lab.at("s/x") / "forked_from.json").exists() and [event["step"] for event in events(alone, "rewind")] == [
        16
    ]
    assert weights(lab.at("s/x")) == weights(alone)


def test_spikes_go_on_being_left_out_until_they_are_usual(lab: Lab) -> None:
    run = trained(lab, "x", *SKIP, plants=[ALL_BAD])
    skipped = [event["step"] for event in events(run, "skipped")]
    assert skipped[0] == SPIKE + 1 and skipped == [*range(SPIKE + 1, skipped[-1] + 1)] and 4 <= len(skipped) < 8


def test_before_the_first_checkpoint_the_run_goes_on(lab: Lab) -> None:
    early: Plant = ("bad_samples", 4 * BATCH, 4 * BATCH, 100.0)
    ended = lab.tiny("x", *REWIND, plants=[early])
    assert ended.code == 0 and "no checkpoint to go back to yet, so the run goes on" in ended.err
    assert events(lab.at("x"), "rewind") == [] and summary(lab.at("x"))["rewinds"] == 0


def test_nothing_is_a_spike_where_nothing_is(lab: Lab) -> None:
    """The same to the last bit, whichever of them is on."""
    plain = trained(lab, "plain", plants=[])
    for name, settings in (("skip", SKIP), ("rewind", REWIND)):
        run = trained(lab, name, *settings, plants=[])
        assert (weights(run), losses(run)) == (weights(plain), losses(plain))


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
@pytest.mark.parametrize("guard", [pytest.param(SKIP, marks=pytest.mark.long), REWIND], ids=["skip", "rewind"])
def test_two_processes_do_it_alike(lab: Lab, guard: tuple[str, ...], strategy: str) -> None:
    """Their weights are compared after each step (launch.check_every)."""
    settings = ("train.eval_every=0", f"launch.strategy={strategy}")
    left_out: Plant = ("not_finite", [SPIKE + 1])
    expected = left_out if guard is SKIP else ("pass_over", BATCH * PLACE, PASSED)
    for name, overrides, plant in (("x", guard, BAD), ("reference", (), expected)):
        ended = lab.tiny_ranks(2, name, *settings, *overrides, "launch.check_every=1", plants={0: [plant], 1: [plant]})
        assert [each.code for each in ended] == [0, 0], ended[0].err
    assert weights(lab.at("x")) == weights(lab.at("reference"))
    assert len(events(lab.at("x"), "skipped" if guard is SKIP else "rewind")) == 1


@pytest.mark.long
def test_text_that_is_tokenised_ahead(server: Server, tmp_path: Path) -> None:
    """The samples behind those that are passed over are of the next part, which is waited for."""
    for number in range(3):
        write_corpus(tmp_path / f"{number}.jsonl", seed=number)
    lab, ahead = Lab(server, tmp_path, tmp_path / "*.jsonl"), ("small_parts", 8000, 1)
    setting = "dataset.tokenize=ahead"
    trained(lab, "x", *REWIND, setting, plants=[BAD, ahead, ("tokenise_so", "time.sleep(0.3)")])
    trained(lab, "reference", setting, plants=[("pass_over", BATCH * PLACE, PASSED), ahead])
    assert weights(lab.at("x")) == weights(lab.at("reference"))
