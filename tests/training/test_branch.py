"""`fork=RUN@STEP`: what a run that begins from another's checkpoint has of it, and what it may change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from est_cli.tracking import read_metrics
from tests.lab.lab import STEPS, T2, Ended, Lab, losses, outcome, sha256_of, write_corpus

LAYERS = "train.log_layers_every=4"


@pytest.fixture(scope="module")
def finished(shared: Lab) -> Path:
    assert shared.tiny("a", LAYERS).code == 0
    return shared.at("a")


@pytest.fixture
def origin(lab: Lab, finished: Path) -> Path:
    """outputs/a, a finished run of 30 steps."""
    shutil.copytree(finished, lab.at("a"))
    return lab.at("a")


def fork(lab: Lab, *settings: str, step: int = T2, name: str = "b", **more: object) -> Ended:
    return lab.train(f"fork=outputs/a@{step}", f"run_name={name}", "tracking.wandb=off", *settings, **more)  # type: ignore[arg-type]


def stored(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_where_nothing_is_changed_it_is_the_run_itself(lab: Lab, origin: Path) -> None:
    before = outcome(origin)
    ended = fork(lab)
    assert ended.code == 0 and f"begins from outputs/a, after step {T2}" in ended.err, ended.err
    found = outcome(lab.at("b"))
    for key in ("records", "layers", "summary", "sha256"):
        assert found[key] == before[key], key
    assert json.loads((lab.at("b") / "forked_from.json").read_text()) == {"run": "outputs/a", "step": T2}
    assert stored(lab.at("b"))["fork"] == f"outputs/a@{T2}" and outcome(origin) == before


def test_a_shorter_end_with_other_settings(lab: Lab, origin: Path) -> None:
    """The stages that lie behind stay the steps they were."""
    settings = ("train.max_steps=40", "optim.lr=3e-4", "optim.decay=0.5", "train.eval_every=0")
    assert fork(lab, *settings).code == 0
    run = lab.at("b")
    records = [record for record in read_metrics(run / "metrics.jsonl") if "loss" in record]
    assert [record["step"] for record in records] == [*range(1, 41)]
    assert losses(run)[:T2] == losses(origin)[:T2] and losses(run)[T2] == losses(origin)[T2]
    assert losses(run)[T2 + 1] != losses(origin)[T2 + 1], "another learning rate in step 19"
    assert records[T2]["lr"] == pytest.approx(3e-4) and records[T2 - 1]["lr"] == 1e-3
    assert stored(run)["stage"]["t2"] == T2 and stored(run)["optim"]["warmup"] == 1, "0.02 of 30 steps"
    again = lab.train("resume=outputs/b")
    assert again.code == 0 and "this run is finished" in again.out


@pytest.mark.long
def test_it_reads_another_text_with_the_same_tokenizer(lab: Lab, origin: Path) -> None:
    other = write_corpus(lab.folder / "other.jsonl", seed=5)
    refused = fork(lab, f"dataset.files={other}")
    place = f"outputs/a/checkpoints/step-{T2:06d}"
    assert refused.code == 2 and f"tokenizer={place}" in refused.err, refused.err
    assert not lab.at("b").exists()
    kill = ("at_step", "est_cli.training.train.train_step", T2 + 6, "after", "SIGKILL")
    settings = (f"dataset.files={other}", f"tokenizer={place}")
    assert fork(lab, *settings, plants=[kill]).code == -9
    assert lab.train("resume=outputs/b").code == 0
    assert losses(lab.at("b"))[T2] != losses(origin)[T2]
    summaries = [json.loads((run / "summary.json").read_text()) for run in (origin, lab.at("b"))]
    assert summaries[0]["data_hash"] != summaries[1]["data_hash"]
    assert summaries[0]["tokenizer_hash"] == summaries[1]["tokenizer_hash"]


@pytest.mark.parametrize(
    "place", ["write_json", *(pytest.param(it, marks=pytest.mark.long) for it in ("_copy_records", "_copy_checkpoint"))]
)
def test_killed_while_it_begins_it_begins_again(lab: Lab, origin: Path, place: str) -> None:
    kill = ("at", f"est_cli.training.fork.{place}", 1, "before", "SIGKILL")
    assert fork(lab, plants=[kill]).code == -9
    assert fork(lab, "resume=auto").code == 0
    assert outcome(lab.at("b"))["sha256"] == outcome(origin)["sha256"]
    assert outcome(lab.at("b"))["records"] == outcome(origin)["records"]


def test_once_begun_it_needs_the_other_run_no_more(lab: Lab, origin: Path) -> None:
    """Whose checkpoints come and go: the same command continues the fork."""
    kill = ("at_step", "est_cli.training.train.train_step", 25, "after", "SIGKILL")
    assert fork(lab, "optim.lr=1e-3", plants=[kill]).code == -9
    shutil.rmtree(origin / f"checkpoints/step-{T2:06d}")
    ended = fork(lab, "optim.lr=2e-3", "resume=auto")
    assert ended.code == 2 and "optim.lr: the run in outputs/b was started with 0.001" in ended.err, ended.err
    shutil.rmtree(origin)
    ended = fork(lab, "optim.lr=1e-3", "resume=auto")
    assert ended.code == 0, ended.err
    assert fork(lab, "resume=auto", name="c").code == 2, "another has not begun"


def test_the_other_run_may_have_been_killed_in_a_record(lab: Lab, origin: Path) -> None:
    with (origin / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "lo')
    ended = fork(lab)
    assert ended.code == 0, ended.err
    assert outcome(lab.at("b"))["sha256"] == outcome(origin)["sha256"]


@pytest.mark.long
def test_a_fork_is_made_longer_as_any_run(lab: Lab, origin: Path) -> None:
    assert fork(lab, "train.max_steps=32").code == 0
    assert lab.train("resume=outputs/b", "train.max_steps=45").code == 0
    assert lab.tiny("c", "train.max_steps=45").code == 0
    assert sha256_of(lab.at("b"), 45) == sha256_of(lab.at("c"), 45)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ("fork=outputs/a@17",),
            "fork: outputs/a@17 names no checkpoint; write outputs/a@STEP, with one of its steps: 8,",
        ),
        (("fork=outputs/a",), "fork: outputs/a names no checkpoint"),
        (("fork=outputs/none@18",), "fork: outputs/none is not the folder of a run"),
        (("resume=outputs/a",), "fork: begins a new run; leave out resume"),
        (
            ("model.hidden_size=64",),
            "model.hidden_size: the first 18 steps of the run in outputs/a were trained with 32",
        ),
        (("seed=1",), "seed: the first 18 steps"),
        (("train.seq_len=16",), "train.seq_len: the first 18 steps"),
        (("train.max_steps=18",), "fork: outputs/a@18 has done 18 steps, and 18 are to be done in all"),
        (("stage.t1=4",), "scheduler: has 18 steps behind it that a run of 30 steps would not have"),
        (("run_name=a",), "run_name: outputs/a is a finished run"),
    ],
)
def test_what_cannot_be_is_refused(lab: Lab, origin: Path, settings: tuple[str, ...], told: str) -> None:
    given = {item.split("=")[0] for item in settings}
    usual = [item for item in (f"fork=outputs/a@{T2}", "run_name=b") if item.split("=")[0] not in given]
    ended = lab.train(*usual, "tracking.wandb=off", *settings)
    assert ended.code == 2 and told in ended.err, ended.err
    assert not lab.at("b").exists()


def test_a_damaged_checkpoint_is_told_before_there_is_a_folder(lab: Lab, origin: Path) -> None:
    weights = origin / f"checkpoints/step-{T2:06d}/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    ended = fork(lab)
    assert ended.code == 4 and "model.safetensors" in ended.err and not lab.at("b").exists()
    assert len(losses(origin)) == STEPS
