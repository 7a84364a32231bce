"""Runs of a sweep that share their first steps: what forks from another run ends as it would have alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from est_cli.est import SamplingRates, SamplingScheduler, dense, three_stage
from est_cli.est.baselines import pld, raptr
from est_cli.est.schedule import common_steps, linear, n_stage
from est_cli.est.stacking import g_stack, one_layer
from tests.lab.lab import STEPS, T1, T2, Ended, Lab, Plant, outcome

HALF = SamplingRates(0.5, 0.5, 0.5)
LATER = 24
NO_STAGES = tuple(f"stage.{key}=null" for key in ("t1", "t2", "p_h", "p_m", "p_l"))


def forked(lab: Lab, name: str, *overrides: str, plants: tuple[Plant, ...] = ()) -> Ended:
    return lab.tiny(name, "sweep=s", "share_prefix=true", *overrides, plants=plants)


@pytest.fixture(scope="module")
def default_run(shared: Lab) -> Path:
    assert forked(shared, "a").code == 0
    return shared.at("s/a")


@pytest.fixture
def first(lab: Lab, default_run: Path) -> Callable[..., Path]:
    """first(*overrides): outputs/s/a, which the others may fork from; the one without overrides is run once."""

    def run(*overrides: str) -> Path:
        if overrides:
            assert forked(lab, "a", *overrides).code == 0
        else:
            shutil.copytree(default_run, lab.at("s/a"))
        assert not (lab.at("s/a") / "forked_from.json").exists()
        return lab.at("s/a")

    return run


def origin(lab: Lab, name: str) -> tuple[str, int]:
    told = json.loads((lab.at(f"s/{name}") / "forked_from.json").read_text())
    return told["run"], told["step"]


@pytest.mark.some(1)
@pytest.mark.parametrize(
    ("of_both", "own"),
    [
        ((), (f"stage.t2={LATER}",)),
        (("train.eval_every=0",), (f"stage.t2={LATER}",)),
        (("train.eval_every=6", "sampling.redraw=forward"), (f"stage.t2={LATER}",)),  # both validate step 18
        (("optim=muon", "model.dropout=0.1", "train.log_layers_every=4"), (f"stage.t2={LATER}",)),
        (
            (*NO_STAGES, "scheduler=gradual_stacking", "stage.boundaries=[8,18]", "stage.depths=[1,2]"),
            ("stage.boundaries=[8,24]",),
        ),
    ],
)
def test_a_forked_run_is_the_run_alone(
    lab: Lab, first: Callable[..., Path], of_both: tuple[str, ...], own: tuple[str, ...]
) -> None:
    run = first(*of_both)
    ended = forked(lab, "b", *of_both, *own)
    assert ended.code == 0 and f"begins from outputs/s/a, which is the same up to step {T2}" in ended.err
    assert origin(lab, "b") == ("outputs/s/a", T2)
    copied = [line for line in run.joinpath("metrics.jsonl").read_bytes().splitlines() if json.loads(line)["step"] < T2]
    assert lab.at("s/b").joinpath("metrics.jsonl").read_bytes().splitlines()[: len(copied)] == copied
    assert outcome(lab.at("s/b")) == lab.golden(*of_both, *own)


@pytest.mark.long
def test_the_longest_common_part_counts(lab: Lab, first: Callable[..., Path]) -> None:
    first()
    assert forked(lab, "b", "stage.t1=4").code == 0
    assert not (lab.at("s/b") / "forked_from.json").exists(), "they part at step 4, where a has no checkpoint"
    assert forked(lab, "c", f"stage.t2={LATER}").code == 0
    assert forked(lab, "d", "stage.t2=28").code == 0
    assert origin(lab, "d") == ("outputs/s/c", LATER)
    assert outcome(lab.at("s/d")) == lab.golden("stage.t2=28")


def test_steps_of_other_learning_rates_are_not_shared(lab: Lab, first: Callable[..., Path]) -> None:
    """Of batches by stage the rate falls over tokens, and a stage that ends later makes the run read fewer."""
    falling = ("optim.schedule=cosine", "train.tokens_per_step=[128,128,256]")
    first(*falling)
    ended = forked(lab, "b", *falling, f"stage.t2={LATER}")
    assert ended.code == 0 and not (lab.at("s/b") / "forked_from.json").exists(), ended.err


@pytest.mark.some(2)
@pytest.mark.parametrize(
    "other", ["seed=1", "optim.lr=3e-3", "stage.p_m=0.25", "train.max_steps=31", "train.log_every=2"]
)
def test_runs_that_differ_share_nothing(lab: Lab, first: Callable[..., Path], other: str) -> None:
    first()
    assert forked(lab, "b", f"stage.t2={LATER}", other).code == 0
    assert not (lab.at("s/b") / "forked_from.json").exists()


def test_nothing_is_shared_unless_asked_for(lab: Lab, first: Callable[..., Path]) -> None:
    first()
    assert lab.tiny("b", "sweep=s", f"stage.t2={LATER}").code == 0
    assert not (lab.at("s/b") / "forked_from.json").exists()
    refused = lab.train(*lab.arguments("run_name=x", "share_prefix=true"))
    assert refused.code == 2 and "share_prefix: is for the runs of a sweep" in refused.err


def test_a_damaged_checkpoint_is_not_taken(lab: Lab, first: Callable[..., Path]) -> None:
    weights = first() / f"checkpoints/step-{T2:06d}/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    ended = forked(lab, "b", f"stage.t2={LATER}")
    assert ended.code == 0 and "the run does not begin from there" in ended.err
    assert origin(lab, "b") == ("outputs/s/a", T1)
    assert outcome(lab.at("s/b")) == lab.golden(f"stage.t2={LATER}")


@pytest.mark.some(1)
@pytest.mark.parametrize(
    "plant",
    [
        ("at", "est_cli.training.fork._copy_records", 1, "after", "SIGKILL"),
        ("at", "est_cli.training.fork._copy_checkpoint", 1, "after", "SIGKILL"),
        ("at", "est_cli.training.fork._copy_checkpoint", 2, "after", "SIGKILL"),
        ("at_step", "est_cli.training.train.train_step", T2 + 1, "before", "SIGKILL"),
    ],
)
def test_a_fork_that_is_killed_continues(lab: Lab, first: Callable[..., Path], plant: Plant) -> None:
    first()
    assert forked(lab, "b", f"stage.t2={LATER}", plants=(plant,)).code == -9
    assert forked(lab, "b", f"stage.t2={LATER}").code == 0
    assert outcome(lab.at("s/b")) == lab.golden(f"stage.t2={LATER}")


def stages(t1: int, t2: int, rates: SamplingRates = HALF) -> SamplingScheduler:
    return three_stage(STEPS, t1, t2, rates)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (stages(8, 18), stages(8, 18), STEPS),
        (stages(8, 18), stages(8, 24), 18),
        (stages(8, 18), stages(6, 18), 6),
        (stages(8, 18), stages(8, 18, SamplingRates(0.5, 0.25, 0.5)), 0),
        (stages(8, 18), three_stage(31, 8, 18, HALF), STEPS),  # a longer run is the same so far
        (stages(0, 18), stages(0, 20), 18),
        (stages(0, 18), n_stage(STEPS, [18], [SamplingRates(0.5, 0.5, 1.0), SamplingRates()]), 0),  # another number
        (stages(8, 18), n_stage(STEPS, [8], [HALF, SamplingRates()]), 8),
        (dense(STEPS), n_stage(STEPS, [4], [SamplingRates(), HALF]), 4),
        (linear(STEPS, 20, HALF, 2), n_stage(STEPS, [10], [HALF, SamplingRates()]), 0),  # keeps no checkpoint there
        (raptr(STEPS, [10], [2]), raptr(STEPS, [20], [2]), 10),
        (pld(STEPS, 0.5, 0.1), pld(STEPS, 0.5, 0.2), 0),
        (g_stack(STEPS, [10], [1]), g_stack(STEPS, [20], [1]), 10),
        (g_stack(STEPS, [10], [1]), one_layer(STEPS, [20], [1]), 0),
    ],
)
def test_common_steps(one: SamplingScheduler, other: SamplingScheduler, common: int) -> None:
    assert common_steps(one, other) == common_steps(other, one) == common
