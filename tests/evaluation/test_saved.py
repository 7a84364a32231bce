"""eval.save: what plain transformers makes of the folders, and that a stop leaves whole ones or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from est_cli.cli.entry import enter
from est_cli.config import Select
from est_cli.eval import main
from est_cli.evaluation import run_evaluation
from est_cli.evaluation.finetune import Epoch
from est_cli.evaluation.glue import TASKS
from est_cli.evaluation.saved_model import EpochWeights, model_folder_of
from est_cli.storage import disk
from est_cli.storage.store import verify_folder
from tests.lab.glue_folder import rows_of, write_split
from tests.lab.small_models import END, save

SETTINGS = ["eval.epochs=2", "eval.batch_size=16", "eval.lr=3e-3", "eval.seeds=[0]", "tracking.wandb=off"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("glue")
    for name in ("sst2", "mrpc", "stsb"):
        rows = rows_of(TASKS[name], 61)
        write_split(root, TASKS[name], "train", rows[:32])
        write_split(root, TASKS[name], "dev", rows[32:])
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def est_eval(data: Path, *args: str) -> int:
    line = ["est-eval", "checkpoint=m", f"eval.data_dir={data}", "run_name=e", *SETTINGS, *args]
    return enter("est-eval", main, line)


def saved() -> list[Path]:
    return sorted(Path("outputs/e/finetuned").iterdir())


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def record() -> dict[str, Any]:
    (found,) = json.loads(Path("outputs/e/results.json").read_text())["records"]
    return found


def logits(model: Any, row: dict[str, Any]) -> torch.Tensor:
    parts = {name: torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids") if name in row}
    with torch.no_grad():
        return model(**parts).logits[0]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "task"), [("gpt2", "sst2"), ("llama", "mrpc"), ("bert", "mrpc")])
def test_plain_transformers_makes_the_same_predictions(data: Path, family: str, task: str) -> None:
    save(Path("m"), family)
    assert est_eval(data, f"task={task}", "eval.save=true") == 0
    (folder,) = saved()
    model, rows = AutoModelForSequenceClassification.from_pretrained(folder), rows_in(folder)
    assert [logits(model, row).argmax().item() for row in rows] == [row["prediction"] for row in rows]
    assert model.config.id2label == dict(enumerate(TASKS[task].labels))
    right = [row["label"] == row["prediction"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(record()["scores"]["dev"]["accuracy"]) and len(rows) == 29


@pytest.mark.slow
def test_the_saved_tokenizer_fills_up_batches_as_training_did(data: Path) -> None:
    save(Path("m"))
    assert est_eval(data, "task=sst2", "eval.save=true") == 0
    (folder,) = saved()
    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    rows = rows_in(folder)
    batch = tokenizer([row["texts"][0] for row in rows], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        assert model(**batch).logits.argmax(1).tolist() == [row["prediction"] for row in rows]


@pytest.mark.slow
def test_a_regression_and_a_text_that_ends_with_the_padding(data: Path, tmp_path: Path) -> None:
    save(Path("m"))
    rows = rows_of(TASKS["stsb"], 40)
    rows[-1] = ((rows[-1][0][0], f"{rows[-1][0][1]}{END}"), rows[-1][1])
    for split, part in (("train", rows[:20]), ("dev", rows[20:])):
        write_split(tmp_path / "own", TASKS["stsb"], split, part)
    assert est_eval(tmp_path / "own", "task=stsb", "eval.save=true") == 0
    (folder,) = saved()
    model, found = AutoModelForSequenceClassification.from_pretrained(folder), rows_in(folder)
    assert any(row["input_ids"][-1] == 1 for row in found)
    expected = [row["prediction"] for row in found]
    assert [logits(model, row).item() for row in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_only_what_is_missing_is_done_again_and_nothing_is_overwritten(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Path("m"))
    done: list[str] = []
    real = run_evaluation._run
    monkeypatch.setattr(run_evaluation, "_run", lambda job, *rest: done.append(job.data.task.name) or real(job, *rest))
    assert est_eval(data, "task=sst2") == 0 and not Path("outputs/e/finetuned").exists()
    without = {key: value for key, value in record().items() if key != "seconds"}
    assert est_eval(data, "task=sst2", "eval.save=true") == 0 and done == ["sst2", "sst2"]
    assert {key: value for key, value in record().items() if key != "seconds"} == without
    (folder,) = saved()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert est_eval(data, "task=sst2", "eval.save=true") == 0 and done == ["sst2", "sst2"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    verify_folder(folder)


class Killed(BaseException):
    """As a kill: nothing of ours handles it."""


@pytest.mark.slow
def test_a_kill_leaves_no_half_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(Path("m"))

    def kill(name: str) -> None:
        if name == "write predictions.jsonl":
            raise Killed

    with monkeypatch.context() as planted:
        planted.setattr(disk, "fault_point", kill)
        planted.setattr(disk, "remove", lambda path: None)  # what is left lies there, as after SIGKILL
        with pytest.raises(Killed):
            est_eval(data, "task=sst2", "eval.save=true")
    (left,) = saved()
    assert left.name.startswith(".tmp-sst2-seed0-")
    left.rename(left.with_name(left.name.rpartition("-")[0] + "-1"))  # of a process that is gone
    assert est_eval(data, "task=sst2", "eval.save=true") == 0
    (folder,) = saved()
    verify_folder(folder)


def test_the_weights_are_of_the_epoch_that_counts() -> None:
    def epoch(number: int, score: float) -> Epoch:
        return Epoch(number, 0.0, {}, score, {})

    for select, expected in ((Select.best, 1.0), (Select.last, 2.0)):
        model = nn.Linear(1, 1, bias=False)
        kept, epochs = EpochWeights(model, select), []  # type: ignore[arg-type]
        for number, score in enumerate((0.5, 0.9, 0.7)):
            nn.init.constant_(model.weight, number)
            epochs.append(epoch(number, score))
            kept.take(epochs)
        assert kept.weights["weight"].item() == expected


def test_other_settings_are_another_folder() -> None:
    first, second = (model_folder_of(Path("o"), ("m@1", "sst2", 0, digest, "d")) for digest in ("a", "b"))
    assert first != second and first.name.startswith("sst2-seed0-")


def test_there_must_be_something_to_save(capsys: pytest.CaptureFixture[str]) -> None:
    assert enter("est-eval", main, ["est-eval", "checkpoint=m", "task=[lm_eval:piqa]", "eval.save=true"]) == 2
    assert "eval.save: keeps fine-tuned models, and no GLUE task is named; leave it false" in capsys.readouterr().err
