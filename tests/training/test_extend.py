"""A run made longer is the run that had been longer from the start, wherever that can be said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from est_cli.storage.store import step_folders
from est_cli.training.extend import how_to_lengthen
from tests.lab.commands import accepted
from tests.lab.lab import STEPS, Ended, Lab, Plant, losses, outcome, sha256_of

LONGER, DECAY = 45, 24
"""The decay is the last fifth: of 30 steps it begins at 24, of 45 at 36."""
CALLS = "est_cli.training.extend"


@pytest.fixture(scope="module")
def finished(shared: Lab) -> Path:
    assert shared.tiny("short").code == 0
    return shared.at("short")


@pytest.fixture
def short(lab: Lab, finished: Path) -> Path:
    """outputs/x, a finished run of 30 steps."""
    shutil.copytree(finished, lab.at("x"))
    return lab.at("x")


def extend(lab: Lab, *settings: str, plants: tuple[Plant, ...] = ()) -> Ended:
    return lab.train("resume=outputs/x", *(settings or (f"train.max_steps={LONGER}",)), plants=plants)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("wsd", "resume=outputs/x train.max_steps=60 makes it longer"),
        ("cosine", "fork=outputs/x@30 run_name=NAME train.max_steps=60 begins a longer one from it"),
    ],
)
def test_how_to_have_more_of_a_finished_run(schedule: str, told: str) -> None:
    """Where the rate has come to its end the run itself cannot become longer."""
    config = accepted("train.max_steps=30", f"optim.schedule={schedule}")
    assert how_to_lengthen(Path("outputs/x"), config) == told


def test_it_is_the_run_of_that_length(lab: Lab, short: Path) -> None:
    model = (short / "model/model.safetensors").read_bytes()
    (short / "plots").mkdir(exist_ok=True)
    (short / "plots/loss.png").write_bytes(b"of 30 steps")
    assert DECAY in [step for step, _ in step_folders(short / "checkpoints")], "kept although it is no transition"
    ended = extend(lab)
    assert ended.code == 0 and f"resumed   after step {DECAY}" in ended.err, ended.err
    assert outcome(short) == lab.golden(f"train.max_steps={LONGER}")
    aside = short / f"ended-{STEPS:06d}"
    assert (aside / "model/model.safetensors").read_bytes() == model and (aside / "plots/loss.png").exists()
    assert json.loads((aside / "summary.json").read_text())["steps"] == STEPS
    again = extend(lab)
    assert again.code == 0 and "this run is finished" in again.out


@pytest.mark.long
def test_boundaries_that_are_passed_stay_the_steps_they_were(lab: Lab) -> None:
    """Also from a run that has not come to its end; what lies ahead is a fraction of the new length."""
    fractions = ("stage.t1=0.27", "stage.t2=0.9", "optim.warmup=0.1", "optim.decay=0.1")
    kill = ("at_step", "est_cli.training.train.train_step", 17, "after", "SIGKILL")
    assert lab.tiny("x", *fractions, plants=[kill]).code == -9
    ended = extend(lab, "train.max_tokens=5760")
    assert ended.code == 0 and "resumed   after step 15" in ended.err, ended.err
    stored = yaml.safe_load((lab.at("x") / "config.yaml").read_text())
    assert (stored["stage"]["t1"], stored["stage"]["t2"], stored["optim"]["warmup"]) == (8, 0.9, 3)
    assert (stored["train"]["max_steps"], stored["train"]["max_tokens"]) == (None, 5760)
    golden = lab.golden("train.max_steps=45", "stage.t1=8", "stage.t2=0.9", "optim.warmup=3", "optim.decay=0.1")
    assert outcome(lab.at("x")) == golden


KILLS: list[Plant] = [
    ("at", "est_cli.storage.disk.move_into", 1, "after", "SIGKILL"),
    ("at", "est_cli.storage.disk.move_into", 3, "before", "SIGKILL"),
    ("at", f"{CALLS}.remove_later", 1, "after", "SIGKILL"),
    ("at", "est_cli.training.folder.set_back", 1, "after", "SIGKILL"),
    ("at_step", "est_cli.training.train.train_step", 40, "after", "SIGKILL"),
]


@pytest.mark.parametrize("plant", [KILLS[0], *(pytest.param(plant, marks=pytest.mark.long) for plant in KILLS[1:])])
def test_killed_in_any_phase_it_is_still_that_run(lab: Lab, short: Path, plant: Plant) -> None:
    assert extend(lab, plants=(plant,)).code == -9
    assert extend(lab).code == 0
    assert outcome(short) == lab.golden(f"train.max_steps={LONGER}")
    assert (short / f"ended-{STEPS:06d}/summary.json").exists()


def test_killed_before_it_is_longer_it_ends_again_as_it_had(lab: Lab, short: Path) -> None:
    assert extend(lab, plants=(("at", f"{CALLS}.remove_later", 1, "after", "SIGKILL"),)).code == -9
    assert lab.train("resume=outputs/x").code == 0
    assert outcome(short) == lab.golden()


@pytest.mark.long
def test_a_constant_rate_goes_on_from_the_end(lab: Lab) -> None:
    settings = ("optim.schedule=constant", "train.eval_every=5")
    assert lab.tiny("x", *settings).code == 0
    before = sha256_of(lab.at("x"), STEPS)
    ended = extend(lab)
    assert ended.code == 0 and f"resumed   after step {STEPS}" in ended.err
    assert outcome(lab.at("x")) == lab.golden(*settings, f"train.max_steps={LONGER}")
    assert before != sha256_of(lab.at("x"), LONGER) and len(losses(lab.at("x"))) == LONGER


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda run: shutil.rmtree(run / f"checkpoints/step-{DECAY:06d}"),
            "keeps no checkpoint of it to go on from; fork=",
        ),
        (
            lambda run: (run / f"checkpoints/step-{DECAY:06d}/model.safetensors").write_bytes(b""),
            "the run cannot go on",
        ),
    ],
    ids=["gone", "damaged"],
)
def test_without_the_checkpoint_before_the_decay_it_is_refused(
    lab: Lab, short: Path, spoil: Callable[[Path], object], told: str
) -> None:
    spoil(short)
    before = outcome(short) if "keeps" in told else None
    ended = extend(lab)
    assert ended.code in (2, 4) and told in ended.err and "fork=outputs/x@" in ended.err, ended.err
    assert (short / "summary.json").exists() and not (short / "ended-000030").exists()
    assert before is None or outcome(short) == before


@pytest.mark.parametrize(
    ("of_run", "given", "told"),
    [
        ((), "train.max_steps=20", "train.max_steps: the run in outputs/x was started with 30 steps, not 20"),
        ((), "train.max_tokens=3840", "train.max_tokens: the run in outputs/x was started with 30 steps, not 30"),
        (("optim.schedule=cosine",), "train.max_steps=45", "optim.schedule=cosine falls from the"),
    ],
)
def test_what_cannot_be_is_refused(lab: Lab, short: Path, of_run: tuple[str, ...], given: str, told: str) -> None:
    if of_run:
        shutil.rmtree(short)
        assert lab.tiny("x", *of_run).code == 0
    ended = extend(lab, given)
    assert ended.code == 2 and told in ended.err, ended.err
    assert (lab.at("x") / "summary.json").exists()
