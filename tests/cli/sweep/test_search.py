"""Searches with Optuna: what is proposed, how they go on, what becomes of proposals that cannot run."""

from __future__ import annotations

import os
import signal

import pytest
import yaml

from est_cli.cli.sweep import search
from est_cli.cli.sweep.run_job import JobExit, JobSignals
from est_cli.common.errors import install_hint
from tests.cli.sweep.test_launcher import needs_slurm
from tests.lab.sweep_lab import Lab, column, results

SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "sweep=s"]

needs_search = pytest.mark.skipif(not search.is_installed(), reason="pip install 'est-cli[search]'")


def best_of(lab: Lab) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((lab.folder / "outputs/s/launcher/optimization_results.yaml").read_text())
    return found


def test_optuna_that_is_not_there_is_named_with_its_extra(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "is_installed", lambda: False)
    result = lab.sweep("seed=0,1", "hydra/sweeper=optuna")
    message = f"hydra/sweeper: optuna is a plugin; {install_hint('search')}"
    assert (result.code, result.err) == (2, f"est-train: error: {message}\n") and list(lab.folder.iterdir()) == []


@needs_search
def test_a_search_goes_on_where_it_stopped(lab: Lab) -> None:
    args = [*SEARCH, "stage.t1=interval(0.0,0.4)", "optim.weight_decay=0.05"]
    result = lab.sweep(*args)
    assert result.code == 0, result.err
    ran = lab.take_ran()
    rows = results(lab.folder / "outputs" / "s")
    assert len(ran) == 4 and column(rows, "status") == ["done"] * 4 and column(rows, "job") == list("1234")
    assert [line for line in result.err.splitlines() if line.startswith("job ")] == [
        f"job {number}/4  {name}" for number, name in enumerate(ran, 1)
    ]
    best = min(rows, key=lambda row: float(row["stage.t1"]))
    assert best["best"] == "*"
    loss = float(best["final_val_loss"])
    assert best_of(lab) == {"name": "optuna", "best_params": {"stage.t1": float(best["stage.t1"])}, "best_value": loss}
    again = lab.sweep(*args, "hydra.sweeper.n_trials=5")
    assert again.code == 0 and len(lab.ran) == 1, again.err
    assert column(results(lab.folder / "outputs" / "s"), "status") == ["done before"] * 4 + ["done"]


@pytest.mark.long
@needs_search
def test_a_search_that_was_stopped_proposes_what_it_would_have(lab: Lab) -> None:
    args = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.sampler.n_startup_trials=2"]
    args += ["stage.t1=interval(0.0,0.4)", "seed=range(9)", "optim.beta1=0.8,0.9"]
    assert lab.sweep(*args, "sweep=whole").code == 0
    whole = lab.take_ran()

    def stopped(signals: JobSignals) -> JobExit:
        os.kill(os.getpid(), signal.SIGTERM)
        return JobExit(143, "after step 7")

    lab.ends[whole[3]] = stopped
    cut = lab.sweep(*args, "sweep=s")
    assert cut.code == 143 and lab.take_ran() == whole[:4]
    assert cut.last == "est-train: stopped: in job 4 of 6; the same command continues the sweep"
    lab.ends.clear()
    assert lab.sweep(*args, "sweep=s").code == 0 and lab.take_ran() == whole[3:]
    assert column(results(lab.folder / "outputs" / "s"), "status") == ["done before"] * 3 + ["done"] * 3


@needs_search
def test_seed_and_direction(lab: Lab) -> None:
    args = [*SEARCH, "stage.t1=interval(0.0,0.4)"]
    assert lab.sweep(*args).code == 0
    usual = lab.take_ran()
    assert lab.sweep(*args, "hydra.sweeper.sampler.seed=1", "hydra.sweeper.direction=maximize").code == 0
    assert not {*lab.ran} & {*usual}
    rows = results(lab.folder / "outputs" / "s")
    assert best_of(lab)["best_value"] == max(float(row["final_val_loss"]) for row in rows)


@pytest.mark.long
@needs_search
def test_logarithms_whole_numbers_and_steps(lab: Lab) -> None:
    space = ["optim.lr=tag(log,interval(1e-4,1e-2))", "seed=int(interval(1,3))", "stage.t1=range(0.1,0.35,0.1)"]
    some = ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=12", "sweep=s"]
    assert lab.sweep(*some, *space, "optim.weight_decay=shuffle(range(0,2))").code == 0
    rows = results(lab.folder / "outputs" / "s")
    rates = [float(rate) for rate in column(rows, "optim.lr")]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2 and 2 < sum(rate < 1e-3 for rate in rates) < 10
    assert set(column(rows, "seed")) == {"1", "2", "3"} and set(column(rows, "optim.weight_decay")) == {"0", "1"}
    assert set(column(rows, "stage.t1")) == {"0.1", "0.2", "0.3"}


@needs_search
def test_choices_may_need_quotes(lab: Lab) -> None:
    args = ["hydra/sweeper/sampler=grid", "tokenizer='a b',c", "scheduler=glob(dense*)"]
    assert lab.sweep(*SEARCH, *args).code == 0
    rows = results(lab.folder / "outputs" / "s")
    assert column(rows, "tokenizer") == ["a b", "c"] and column(rows, "status") == ["done", "done"]
    assert best_of(lab)["best_params"] == {"tokenizer": "a b", "scheduler": "dense"}


@needs_search
def test_proposals_that_cannot_run_or_fail(lab: Lab) -> None:
    lab.ends |= {
        "t1=0.1,seed=1": JobExit(5, "loss: is not finite"),
        "t1=0.1,seed=2": JobExit(2, "tokenizer: is missing"),
    }
    grid = ["hydra/sweeper/sampler=grid", "stage.t1=choice(0.1,0.6)", "seed=0,1,2", "hydra.sweeper.n_trials=9"]
    result = lab.sweep(*SEARCH, *grid)
    assert result.code == 5 and len(lab.ran) == 3, result.err
    rows = results(lab.folder / "outputs" / "s")
    assert {row["folder"].rpartition("/")[2]: row["status"] for row in rows} == {
        "t1=0.1,seed=0": "done", "t1=0.1,seed=1": "failed", "t1=0.1,seed=2": "skipped",
        "t1=0.6,seed=0": "skipped", "t1=0.6,seed=1": "skipped", "t1=0.6,seed=2": "skipped",
    }  # fmt: skip
    assert "job 3 skipped: tokenizer: is missing" in result.out and "job 4 skipped: stage.t1: step 180" in result.out
    assert best_of(lab)["best_params"] == {"stage.t1": 0.1, "seed": 0}


@needs_search
def test_where_nothing_runs_the_best_is_infinitely_bad(lab: Lab) -> None:
    assert lab.sweep(*SEARCH, "stage.t1=interval(0.6,0.9)").code == 0 and lab.ran == []
    assert column(results(lab.folder / "outputs" / "s"), "status") == ["skipped"] * 4
    assert best_of(lab)["best_value"] == float("inf")


@needs_search
def test_a_database_keeps_the_study(lab: Lab) -> None:
    args = [*SEARCH, "hydra.sweeper.storage='sqlite:///study.db'", "hydra.sweeper.study_name=mine"]
    result = lab.sweep(*args, "stage.t1=interval(0.0,0.4)")
    assert result.code == 0 and (lab.folder / "study.db").exists(), result.err
    import optuna

    study = optuna.load_study(study_name="mine", storage="sqlite:///study.db")
    rows = results(lab.folder / "outputs" / "s")
    assert [trial.value for trial in study.trials] == [float(loss) for loss in column(rows, "final_val_loss")]


@needs_search
@needs_slurm
def test_a_launcher_gets_the_proposals(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the launcher: submitit starts it nowhere here."""
    monkeypatch.setenv("PATH", "/nowhere")
    both = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "stage.t1=interval(0.0,0.4)"]
    result = lab.sweep(*SEARCH, *both)
    assert result.code == 2 and "srun" in result.last and "hydra/launcher=submitit_slurm" in result.last
    assert not (lab.folder / "outputs").exists(), "a sweep of which nothing ran leaves nothing"


@needs_search
@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction: must be minimize or maximize"),
        ("hydra.sweeper.direction=[minimize,minimize]", "hydra.sweeper.direction: must be minimize or maximize"),
        ("hydra.sweeper.n_trials=some", "hydra.sweeper.n_trials: "),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: must be at least 1"),
        ("hydra.sweeper.n_trails=5", "hydra.sweeper.n_trails: Key 'n_trails' not in 'SearchConfig'"),
        ("hydra.sweeper.sampler.sed=5", "hydra.sweeper.sampler.sed: Key 'sed' is not in struct"),
        ("hydra.sweeper.sampler.seed=some", "hydra/sweeper=optuna: "),
        ("hydra.sweeper.custom_search_space=os.system", "hydra.sweeper.custom_search_space: is not supported"),
        ("hydra.sweeper.storage=nowhere", "hydra/sweeper=optuna: "),
        ("hydra/sweeper/sampler=qqq", "hydra: In 'hydra/sweeper/optuna': Could not find 'hydra/sweeper/sampler/qqq'"),
        ("hydra/sweeper/sampler=motpe", "hydra"),
        ("hydra/sweeper/sampler=grid", "optim.lr: interval() has no grid; list the values, optim.lr=A,B"),
        ("seed=interval(3,1)", "hydra/sweeper=optuna: "),
    ],
)
def test_settings_of_a_search_are_checked(lab: Lab, setting: str, key: str) -> None:
    result = lab.sweep("hydra/sweeper=optuna", setting, "optim.lr=interval(0,1)")
    assert result.code == 2 and result.err.startswith(f"est-train: error: {key}"), result.err
    assert result.err.count("\n") == 1 and list(lab.folder.iterdir()) == [] and lab.ran == []


def test_other_sweepers_are_refused(lab: Lab) -> None:
    result = lab.sweep("hydra/sweeper=ax", "optim.lr=interval(0,1)")
    assert result.code == 2 and result.last.startswith(
        "est-train: error: hydra/sweeper: no option 'ax'; choose one of basic"
    )
