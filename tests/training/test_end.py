"""The end of a run: its numbers are those of the last step, and what is not finite then loses the run."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from est_cli.common.errors import CheckpointError, NumericsError, StorageError
from est_cli.config import (
    DatasetConfig,
    LaunchConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.setting import Given
from est_cli.storage.store import step_folders
from est_cli.tracking import read_metrics
from est_cli.train import COMMAND
from est_cli.training import train
from est_cli.training.run import RunState
from est_cli.training.start import Start, resolve_resume
from tests.lab.lab import write_corpus

pytestmark = pytest.mark.slow

STEPS, SEQ_LEN = 6, 16


def config_in(folder: Path) -> RunConfig:
    config = RunConfig(
        run_name="a",
        model=ModelConfig("gpt2", "gpt2", 300, 16, 2, 2, max_positions=2 * SEQ_LEN),
        dataset=DatasetConfig("text", Source.files, [str(write_corpus(folder / "corpus.jsonl"))], num_workers=1),
        stage=StageConfig(2, 4, 0.5, 0.5, 0.5),
        train=TrainConfig(
            max_steps=STEPS, seq_len=SEQ_LEN, tokens_per_step=4 * SEQ_LEN, micro_batch=4, eval_every=2, log_every=1
        ),
        launch=LaunchConfig(timeout_s=60.0),
        optim=OptimConfig(),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    config.dataset.validation_fraction = 0.3
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run was made from its first step to its last."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.run(Start.of(config_in(folder), None))
    return folder


@pytest.fixture
def unsummarised(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run as it is where it is killed between its last checkpoint and its model."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs" / "a"
    shutil.rmtree(run / "model")
    (run / "summary.json").unlink()
    return run


def resumed(run: Path) -> dict[str, Any]:
    train.run(resolve_resume(RunConfig(resume=str(run)), Given()))
    return summary_of(run)


def summary_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def rewrite(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    records = [change(record) for record in read_metrics(run / "metrics.jsonl")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records if record))


def of_last_validation(record: dict[str, Any]) -> bool:
    return record["step"] == STEPS and "val_loss" in record


def test_the_final_loss_is_that_of_the_last_step(finished: Path) -> None:
    run = finished / "outputs" / "a"
    last = [record["val_loss"] for record in read_metrics(run / "metrics.jsonl") if "val_loss" in record][-1]
    assert summary_of(run)["final_val_loss"] == last and summary_of(run)["not_finite"] == []


def assert_lost(run: Path, what: str) -> None:
    """No model, no number, and a resume that says the same again."""
    summary = summary_of(run)
    assert summary["not_finite"] == what.split(" and ") and not (run / "model").exists()
    assert "validation" not in what or summary["final_val_loss"] is summary["perplexity"] is None
    with pytest.raises(NumericsError, match=f"not finite after the last step: {what};"):
        COMMAND.accept(RunConfig(resume=str(run)), Given())


def test_a_null_at_the_end_loses_a_run_that_is_finished_later(unsummarised: Path) -> None:
    rewrite(unsummarised, lambda record: record | {"val_loss": None} if of_last_validation(record) else record)
    with pytest.raises(NumericsError, match="not finite after the last step: validation loss"):
        resumed(unsummarised)
    assert_lost(unsummarised, "validation loss")
    assert summary_of(unsummarised)["stages"][-1]["val_loss"] is None


def test_a_last_evaluation_that_is_not_recorded_is_made_again(finished: Path, unsummarised: Path) -> None:
    rewrite(unsummarised, lambda record: None if of_last_validation(record) else record)
    assert resumed(unsummarised)["final_val_loss"] == summary_of(finished / "outputs" / "a")["final_val_loss"]


def not_finite_at_the_end(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    step, evaluate = train.train_step, train.evaluate

    def last_step(run: Any, number: int, *args: Any) -> Any:
        result = step(run, number, *args)
        lost = dataclasses.replace(result, numbers=torch.tensor([math.nan, 1.0, 1.0]))
        return lost if number + 1 == STEPS and "training" in what else result

    def last_evaluation(run: Any) -> float:
        if run.state.step == STEPS and "weights" in what:  # of a position that no sequence has
            run.model.transformer.wpe.weight.data[-1] = math.inf
        loss = evaluate(run)
        return math.nan if run.state.step == STEPS and "validation" in what else loss

    monkeypatch.setattr(train, "train_step", last_step)
    monkeypatch.setattr(train, "evaluate", last_evaluation)


@pytest.mark.some(2)
@pytest.mark.parametrize("what", ["training loss", "validation loss", "weights", "training loss and validation loss"])
def test_what_is_not_finite_after_the_last_step_loses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    not_finite_at_the_end(monkeypatch, what)
    with pytest.raises(NumericsError, match=f"not finite after the last step: {what};"):
        train.run(Start.of(config_in(tmp_path), None))
    run = tmp_path / "outputs" / "a"
    assert_lost(run, what)
    assert [step for step, _ in step_folders(run / "checkpoints")] == [2, 4, 5], "transitions and the decay"


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("time_s", "git_commit")}


@pytest.mark.parametrize("keep", [lambda step: False, lambda step: step <= 3, lambda step: step not in (3, 4)])
def test_lost_records_are_told_and_nothing_wrong_is_made_of_the_rest(
    finished: Path, unsummarised: Path, capsys: pytest.CaptureFixture[str], keep: Callable[[int], bool]
) -> None:
    rewrite(unsummarised, lambda record: record if keep(record["step"]) else None)
    if not (unsummarised / "metrics.jsonl").read_text():
        (unsummarised / "metrics.jsonl").unlink()
    summary, whole = resumed(unsummarised), summary_of(finished / "outputs" / "a")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert "metrics.jsonl: records (" in warning and " of training steps" in warning and " in steps " in warning
    assert (summary["stages"], summary["transitions"], summary["time_saved_pct"]) == ([], [], None)
    assert "nothing is said of stages" in summary["diagnoses"][-1]
    told = {"stages", "transitions", "time_saved_pct", "diagnoses", "time_s", "git_commit"}
    assert {key: summary[key] for key in summary if key not in told} == {
        key: whole[key] for key in whole if key not in told
    }


def test_a_damaged_record_is_told_before_the_steps_that_are_left(unsummarised: Path) -> None:
    *_, (newest, folder) = step_folders(unsummarised / "checkpoints")
    shutil.rmtree(folder)
    rewrite(unsummarised, lambda record: record | {"loss": "oops"} if record["step"] == 2 else record)
    with pytest.raises(StorageError, match="record of step 2 has no number as `loss`"):
        resumed(unsummarised)
    assert newest not in dict(step_folders(unsummarised / "checkpoints"))


def test_doubled_records_count_once(finished: Path, unsummarised: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (unsummarised / "metrics.jsonl").read_text().splitlines(keepends=True)
    (unsummarised / "metrics.jsonl").write_text("".join([*lines[:4], *lines[2:]]))
    assert without_times(resumed(unsummarised)) == without_times(summary_of(finished / "outputs" / "a"))
    (told,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
    assert "2 records are there more than once, first of step 2; of each the last one counts" in told


def test_a_checkpoint_of_an_older_version_counts_no_records(unsummarised: Path) -> None:
    rewrite(unsummarised, lambda record: record if record["step"] > 3 else None)
    for _, folder in step_folders(unsummarised / "checkpoints"):
        state = json.loads((folder / "state.json").read_text())
        del state["records"]
        assert RunState.from_json(state, "").records == {}


def test_what_a_failing_disk_left_in_a_finished_run_is_removed_at_a_later_start(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs" / "a"
    left = [run / ".tmp-model-1", run / "checkpoints" / ".trash-step-000002-0"]
    for folder in left:
        folder.mkdir()
    assert COMMAND.accept(RunConfig(resume=str(run)), Given()) is None
    assert not any(folder.exists() for folder in left)


def test_checkpoints_elsewhere(unsummarised: Path, tmp_path: Path) -> None:
    """On another disk, beside somebody's files, they are used and nothing is cleaned; another run's are refused."""
    places = {"disk": tmp_path / "disk" / "victim", "run": tmp_path / "outputs" / "b" / "checkpoints"}
    for place in places.values():
        shutil.copytree(unsummarised / "checkpoints", place)
        (place / ".trash-step-000001-0").mkdir()
        (place / ".tmp-draft").mkdir()
    shutil.rmtree(unsummarised / "checkpoints")
    shutil.copy(unsummarised / "config.yaml", places["run"].parent)
    (unsummarised / "checkpoints").symlink_to(places["run"])
    with pytest.raises(CheckpointError, match="checkpoints: a link to the checkpoints of another run, "):
        resumed(unsummarised)
    (unsummarised / "checkpoints").unlink()
    (unsummarised / "checkpoints").symlink_to(places["disk"])
    assert resumed(unsummarised)["steps"] == STEPS
    for place in places.values():
        assert {".trash-step-000001-0", ".tmp-draft"} <= {path.name for path in place.iterdir()}
