"""The sentence at the end of a run, its dense twin, and the command that is useful next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from est_cli.reporting.outcome import MOST, MOST_READ, Outcome, dense_command, dense_twin, outcome_of
from est_cli.reporting.runs import read_run
from tests.lab.made_runs import make_run


def outcome(folder: Path, outputs: Path) -> Outcome:
    run = read_run(folder)
    run.config.paths.outputs = str(outputs)
    return outcome_of(folder, run.config, run.summary or {})


def test_what_was_saved_and_how_far_from_the_twin(tmp_path: Path) -> None:
    run = make_run(tmp_path / "est", shift=0.25, summary={"time_saved_pct": 12.34})
    twin = make_run(tmp_path / "dense", "dense")
    found = outcome(run, tmp_path)
    assert found.sentence() == (
        "saved 37.50 % of the block FLOPs, 30.00 % of the total, 12.3 % of the step time; ended at a validation loss "
        f"of 9.2500, 0.2500 above its dense twin {twin} (9.0000)"
    )
    assert found.next_command(["est-train", "seed=1"]) == f"est-report {run} {twin}"


@pytest.mark.parametrize(("shift", "told"), [(-0.01, "0.0100 below its"), (0.0, "as much as its dense twin")])
def test_below_and_equal(tmp_path: Path, shift: float, told: str) -> None:
    run = make_run(tmp_path / "est", shift=shift)
    make_run(tmp_path / "dense", "dense")
    assert told in outcome(run, tmp_path).sentence()


def test_without_a_twin_the_next_command_trains_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "est", summary={"time_saved_pct": -3.0})
    found = outcome(run, tmp_path)
    assert found.sentence().endswith("9.0000, with no dense twin to compare it with")
    assert "no step time (-3.0 %)" in found.sentence()
    argv = ["/somewhere/est-train", "run_name=a b", "stage.t1=0.2", "stage=paper", "sampling.keep_ends=true",
            "scheduler=raptr", "model=gpt2", "dataset.files=[a b.txt]"]  # fmt: skip
    assert found.next_command(argv) == "est-train model=gpt2 'dataset.files=[a b.txt]' scheduler=dense"
    assert found.next_command(["worker.py", "/tmp/x"]) == f"est-report {run}"


@pytest.mark.parametrize("settings", [{"train__micro_batch": [8, 8, 16]}, {"train__max_flops": 1e9}])
def test_a_twin_that_takes_more_than_a_word_is_not_proposed(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = make_run(tmp_path / "est", **settings)
    assert outcome(run, tmp_path).next_command(["est-train"]) == f"est-report {run}"


def test_a_dense_run_saves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "dense")
    make_run(tmp_path / "b", "dense")
    found = outcome(run, tmp_path)
    assert found.sentence() == "a dense run, which saves nothing; it ended at a validation loss of 9.0000"
    assert found.next_command(["est-train"]) == f"est-report {run}"


def test_a_run_without_a_loss_has_no_sentence(tmp_path: Path) -> None:
    assert outcome(make_run(tmp_path / "a", summary={"final_val_loss": None}), tmp_path).sentence() == ""


def test_which_run_is_the_twin(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "est", seed=1))
    make_run(tmp_path / "longer", "dense", seed=1, steps=200)
    make_run(tmp_path / "other", "dense", seed=1, optim__lr=0.5)
    make_run(tmp_path / "on its way", "dense", seed=1, done=50)
    (make_run(tmp_path / "damaged", "dense", seed=1) / "summary.json").write_text("{")
    assert dense_twin(run, tmp_path) is None
    make_run(tmp_path / "sweep" / "seed=0", "dense", seed=0)
    found = dense_twin(run, tmp_path)
    assert found is not None and found.name == str(tmp_path / "sweep" / "seed=0")
    assert "(9.0000, seed 0)" in Outcome(run, found).sentence()
    for number, name in enumerate(("old", "new")):  # this seed, and the newest
        os.utime(make_run(tmp_path / name, "dense", seed=1) / "summary.json", (number, number))
    found = dense_twin(run, tmp_path)
    assert found is not None and found.name == str(tmp_path / "new")


def test_a_large_archive_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, read, run = [], [], read_run(make_run(tmp_path / "est"))
    summary = make_run(tmp_path / "dense", "dense") / "summary.json"
    for number in range(MOST + 5):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
        (tmp_path / "many" / str(number) / "summary.json").symlink_to(summary)
    folders = sorted((tmp_path / "many").iterdir())
    monkeypatch.setattr("est_cli.reporting.outcome.runs_below", lambda *_: iter(folders))
    monkeypatch.setattr("est_cli.reporting.outcome.RunDir.is_finished", lambda run: not looked.append(run.root))
    monkeypatch.setattr("est_cli.reporting.outcome.stored_config", lambda folder: read.append(folder) or run.config)
    assert dense_twin(run, tmp_path) is None
    assert (len(looked), len(read)) == (MOST, MOST_READ)


def test_an_outputs_folder_that_is_gone_has_no_twin(tmp_path: Path) -> None:
    assert dense_twin(read_run(make_run(tmp_path / "est")), tmp_path / "nowhere") is None


@pytest.mark.parametrize("argv", [[], ["est-train", "resume=x"], ["est-train", "-m", "seed=1,2"], ["pytest", "seed=1"]])
def test_no_command_line_of_a_whole_run(argv: list[str]) -> None:
    assert dense_command(argv) == ""
