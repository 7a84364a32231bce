"""est-eval from the command line to the records: seeds, baseline, restart, several processes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from est_cli.cli.entry import enter
from est_cli.common.errors import StoppedBySignal
from est_cli.eval import main
from est_cli.evaluation import run_evaluation
from est_cli.evaluation.glue import TASKS
from tests.lab.commands import typed_in
from tests.lab.glue_folder import make_glue, rows_of, write_split
from tests.lab.small_models import save

pytestmark = pytest.mark.slow

SETTINGS = ["eval.epochs=1", "eval.batch_size=16", "eval.lr=3e-3", "eval.seeds=[0,1]", "tracking.wandb=off"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of SST-2 and MRPC, and two checkpoints; nothing else is ever written there."""
    root = tmp_path_factory.mktemp("place")
    for name in ("sst2", "mrpc"):
        rows = rows_of(TASKS[name], 101)
        write_split(root / "glue", TASKS[name], "train", rows[:62])
        write_split(root / "glue", TASKS[name], "dev", rows[62:])
    save(root / "first", seed=0)
    save(root / "second", seed=1)
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def finetuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is really fine-tuned, in order."""
    done: list[str] = []
    original = run_evaluation._run

    def noted(job: run_evaluation.FinetuneJob, *rest: Any) -> Any:
        done.append(f"{Path(job.checkpoint.place).name} {job.data.task.name} {job.seed}")
        return original(job, *rest)

    monkeypatch.setattr(run_evaluation, "_run", noted)
    return done


def est_eval(place: Path, *args: str, code: int = 0) -> None:
    data = f"eval.data_dir={place / 'glue'}"
    assert enter("est-eval", main, ["est-eval", f"checkpoint={place / 'first'}", data, *SETTINGS, *args]) == code


def results(folder: str = "outputs/eval-first") -> dict[str, Any]:
    return json.loads(Path(folder, "results.json").read_text())


def test_tasks_and_seeds_and_a_baseline(place: Path, finetuned: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    est_eval(place, "task=sst2,mrpc", f"baseline={place / 'second'}")
    assert finetuned == [f"{c} {t} {s}" for t in ("sst2", "mrpc") for c in ("first", "second") for s in (0, 1)]
    found = results()
    assert [record["train_examples"] for record in found["records"]] == [62] * 8
    assert {record["dev_examples"]["dev"] for record in found["records"]} == {39}
    assert [difference["n"] for difference in found["comparison"]] == [2, 2, 2]
    out, err = capsys.readouterr()
    assert "sst2" in out and "average over the tasks present" in out
    assert "sst2, mrpc: 8 fine-tunings, 0 of them already in outputs/eval-first" in err and "left" in err
    assert {path.name for path in Path("outputs/eval-first").iterdir()} == {
        *("results.json", "results.csv", "results.md", ".lock")
    }


def test_a_restart_repeats_nothing(
    place: Path, finetuned: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop_after(monkeypatch, 2)
    est_eval(place, "task=sst2,mrpc", code=128 + 15)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "est-eval: stopped: finished fine-tunings are kept; the same command goes on with the rest"
    assert len(results()["records"]) == 2
    monkeypatch.setattr(run_evaluation, "load_classifier", LOAD)
    est_eval(place, "task=sst2,mrpc")
    assert finetuned == ["first sst2 0", "first sst2 1", "first mrpc 0", "first mrpc 0", "first mrpc 1"]
    est_eval(place, "task=sst2,mrpc")
    assert len(finetuned) == 5 and len(results()["records"]) == 4


def test_a_checkpoint_is_no_baseline_of_itself(
    place: Path, tmp_path: Path, finetuned: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a run's folder of the model in it, which is what is evaluated of a run."""
    save(tmp_path / "outputs" / "x" / "model", seed=0)
    (tmp_path / "outputs" / "x" / "config.yaml").write_text("{}\n")
    for both in ((place / "first", place / "first"), (Path("outputs/x"), Path("outputs/x/model"))):
        est_eval(place, "task=sst2", f"checkpoint={both[0]}", f"baseline={both[1]}", code=2)
        assert "baseline: " in capsys.readouterr().err
    assert finetuned == []


LOAD: Callable[..., Any] = run_evaluation.load_classifier


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """SIGTERM comes when so many fine-tunings are done."""
    calls = iter(range(count))

    def load(*args: Any) -> Any:
        if next(calls, None) is None:
            raise StoppedBySignal(15, "by SIGTERM")
        return LOAD(*args)

    monkeypatch.setattr(run_evaluation, "load_classifier", load)


def test_other_settings_weights_or_examples_are_other_records(
    place: Path, finetuned: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own").symlink_to(place / "first")
    one = ["task=sst2", "eval.seeds=[0]"]
    est_eval(place, *one)
    est_eval(place, *one, "eval.lr=1e-3")
    est_eval(place, *one, "eval.max_train_examples=20")
    assert len(finetuned) == 3 == len({(r["settings_digest"], r["data_digest"]) for r in results()["records"]})
    est_eval(place, *one)
    assert len(finetuned) == 3 and len(results()["records"]) == 3


def test_results_of_a_run_of_ours_lie_in_its_folder(place: Path, tmp_path: Path) -> None:
    made = tmp_path / "outputs" / "x"
    save(made / "model")
    (made / "config.yaml").write_text("seed: 0\n")
    est_eval(place, "task=sst2", "eval.seeds=[0]", "checkpoint=outputs/x")
    assert results("outputs/x")["checkpoint"].startswith("outputs/x/model@")
    est_eval(place, "task=sst2", "eval.seeds=[0]", "checkpoint=outputs/x/model", "run_name=elsewhere")
    assert len(results("outputs/elsewhere")["records"]) == 1


def test_a_job_of_a_sweep_leaves_a_summary(place: Path, finetuned: list[str]) -> None:
    """Of the checkpoint's own scores, and in a folder of its own; an evaluation by itself leaves none."""
    args = ["task=sst2,mrpc", f"baseline={place / 'second'}", "sweep=s", "run_name=lr-3"]
    est_eval(place, *args)
    found, records = json.loads(Path("outputs/s/lr-3/summary.json").read_text()), results("outputs/s/lr-3")
    model, _ = records["summaries"]
    assert found["sst2"] == model["tasks"]["sst2"]["mean"] and found["mrpc_sd"] == model["tasks"]["mrpc"]["sd"]
    assert found["average"] == model["average_over_tasks_present"]["mean"] and found["seeds"] == 2
    assert found["difference"] == records["comparison"][-1]["mean"] == pytest.approx(
        fmean(one["tasks"][task]["mean"] * sign for one, sign in zip(records["summaries"], (1, -1), strict=True)
              for task in ("sst2", "mrpc")) * 2
    )  # fmt: skip
    assert found["time_s"] == pytest.approx(sum(record["seconds"] for record in records["records"]), abs=0.01)
    est_eval(place, *args, "eval.seeds=[0]")
    again = json.loads(Path("outputs/s/lr-3/summary.json").read_text())
    assert len(finetuned) == 8 and (again["seeds"], again["sst2_sd"]) == (1, None) and again["asked"] != found["asked"]
    est_eval(place, "task=sst2", "eval.seeds=[0]")
    assert not Path("outputs/eval-first/summary.json").exists()


def test_what_changes_while_it_runs_is_another_evaluation(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest is that of the files as they were before they were read."""
    save(tmp_path / "own")
    args = ["task=sst2", "eval.seeds=[0]", "checkpoint=own", "sweep=s", "run_name=a"]
    config = json.loads((tmp_path / "own" / "config.json").read_text())

    def changed(*given: Any) -> Any:
        (tmp_path / "own" / "config.json").write_text(json.dumps(config | {"more": 1}))
        return LOAD(*given)

    monkeypatch.setattr(run_evaluation, "load_classifier", changed)
    est_eval(place, *args)
    first = json.loads(Path("outputs/s/a/summary.json").read_text())["asked"]
    monkeypatch.setattr(run_evaluation, "load_classifier", LOAD)
    est_eval(place, *args)
    assert json.loads(Path("outputs/s/a/summary.json").read_text())["asked"] != first


def test_no_room_for_the_records_is_told_before_anything_runs(
    place: Path, finetuned: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("est_cli.evaluation.results.MAX_BYTES", 2000)
    est_eval(place, "task=sst2", "eval.seeds=[0]", code=6)
    assert finetuned == [] and "1 more fine-tunings of 1 epochs could make it larger" in capsys.readouterr().err


def test_glue_is_what_the_folder_holds(place: Path, finetuned: list[str]) -> None:
    est_eval(place, "task=glue", "eval.seeds=[0]", "eval.epochs=0.2", "eval.precision=bf16")
    assert finetuned == ["first sst2 0", "first mrpc 0"]


def test_broken_lines_are_told(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_glue(Path("glue"), names=["qqp"])
    with Path("glue/QQP/train.tsv").open("a") as file:
        file.write("x\tx\tx\tfirst part of a question\nthe rest\tother question\t0\n")
    config = typed_in("eval", f"checkpoint={place / 'first'}", "eval.data_dir=glue", "task=qqp")[0]
    with caplog.at_level(logging.INFO, logger=run_evaluation.log.name):
        run_evaluation._load_data(config, ["qqp"])
    assert caplog.messages == ["qqp: 12 examples to train on, of glue; 2 broken lines of train.tsv left out"]


def test_long_texts_are_counted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    est_eval(place, "task=sst2", "eval.seeds=[0]", "eval.max_length=15")
    (record,) = results()["records"]
    assert 0 < record["truncated"] < 101
    assert f"{record['truncated']} examples truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (["task=rte"], 3, "RTE/train.tsv: there is no such file"),
        (["checkpoint=./nowhere"], 2, "checkpoint: there is no folder ./nowhere"),
        (["task=lm_eval:nothing"], 2, "task: "),
    ],
)
def test_errors(place: Path, capsys: pytest.CaptureFixture[str], args: list[str], code: int, line: str) -> None:
    est_eval(place, *args, code=code)
    out, err = capsys.readouterr()
    assert out == "" and line in err.splitlines()[-1] and "Traceback" not in err
    assert not Path("outputs").exists()


UNEVEN = ["task=mrpc", "eval.batch_size=15", "launch.timeout_s=60", "eval.seeds=[3]", "eval.max_train_examples=61"]
"""61 examples leave a batch of one, in which the other process has none, and 39 of dev shares of 20 and 19."""


def scores_of(place: Path, *program: str, name: str) -> list[tuple[int, float, float]]:
    args = [*SETTINGS, f"checkpoint={place / 'first'}", f"eval.data_dir={place / 'glue'}", f"run_name={name}", *UNEVEN]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run([*program, *args], capture_output=True, text=True, timeout=400, env=env, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("mrpc") == 1, "one process prints"
    return numbers(name)


def numbers(name: str) -> list[tuple[int, float, float]]:
    records = results(f"outputs/{name}")["records"]
    assert {record["dev_examples"]["dev"] for record in records} == {39}
    return [(record["seed"], record["score"], round(record["epochs"][0]["loss"], 4)) for record in records]


@pytest.mark.long
def test_two_processes_give_the_metric_of_one(place: Path) -> None:
    """Those of torchrun; tests/cli/sweep/test_evaluations_restart.py has two of launch.num_processes."""
    est_eval(place, *UNEVEN, "run_name=one")
    one = numbers("one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert [seed for seed, _, _ in one] == [3]
    assert scores_of(place, *torchrun, "-m", "est_cli.eval", name="torchrun") == one
