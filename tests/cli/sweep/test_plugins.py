"""Hydra's launchers and sweepers: with those of Hydra itself, and with the plugins where they are installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from est_cli.cli.sweep.jobs import plan_jobs
from est_cli.cli.sweep.overrides import take_apart
from est_cli.cli.sweep.plugins import launch_jobs, search
from est_cli.cli.sweep.rows import Status, begin, planned_row, rows_of
from est_cli.cli.sweep.run_job import JobExit
from est_cli.cli.sweep.settings import Settings
from est_cli.cli.sweep.trainings import TRAININGS
from est_cli.common.errors import install_hint
from est_cli.config.compose import CommandLine
from est_cli.storage.run_dir import RunDir
from tests.lab.lab import TINY, write_corpus
from tests.lab.sweep_lab import Lab, column, results


def installed(plugin: str) -> bool:
    return importlib.util.find_spec("hydra_plugins") is not None and (
        importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None
    )


needs_slurm = pytest.mark.skipif(not installed("hydra_submitit_launcher"), reason="pip install 'est-cli[slurm]'")
needs_search = pytest.mark.skipif(not installed("hydra_optuna_sweeper"), reason="pip install 'est-cli[search]'")


def opened(lab: Lab) -> Path:
    sweep = Path("outputs", "s")
    sweep.mkdir(parents=True)
    return sweep


def test_a_launcher_gets_what_is_left_to_run(lab: Lab) -> None:
    sweep = opened(lab)
    lab.ends["seed=2"] = JobExit(9, "train.micro_batch: out of memory")
    parts = take_apart(TRAININGS, CommandLine(["seed=0,1,2,-3"], None))
    jobs = plan_jobs(parts, "s")
    RunDir(sweep / "seed=0").root.mkdir()
    RunDir(sweep / "seed=0").summary.write_text("{}")
    begin(TRAININGS, sweep, [planned_row(sweep, job) for job in jobs])
    launch_jobs(Settings([]), jobs, sweep)
    assert lab.ran == ["seed=1", "seed=2"]
    assert [row.status for row in rows_of(sweep)] == [Status.done_before, Status.done, Status.failed, Status.skipped]
    assert not list(lab.folder.rglob(".hydra"))
    assert "seed=0" not in (sweep / "launcher" / "multirun.yaml").read_text()
    launch_jobs(Settings([]), jobs[:1], sweep)  # nothing left


def test_a_sweeper_proposes_and_is_told_the_loss(lab: Lab) -> None:
    sweep = opened(lab)
    parts = take_apart(TRAININGS, CommandLine(["stage.t1=0.1,0.3,0.2", "stage.t2=0.25"], None))
    begin(TRAININGS, sweep, [])
    search(Settings([]), parts, sweep)
    assert lab.ran == ["t1=0.1", "t1=0.3", "t1=0.2"]
    assert column(results(sweep), "status") == ["done", "skipped", "done"]  # refused by est-train itself


@pytest.mark.parametrize(
    ("plugin", "args", "message"),
    [
        (
            "hydra_submitit_launcher",
            ["hydra/launcher=submitit_slurm"],
            f"hydra/launcher: submitit_slurm is a plugin; {install_hint('slurm')}",
        ),
        (
            "hydra_optuna_sweeper",
            ["hydra/sweeper=optuna"],
            f"hydra/sweeper: optuna is a plugin; {install_hint('search')}",
        ),
    ],
)
def test_a_plugin_that_is_not_there_is_named_with_its_extra(
    lab: Lab, plugin: str, args: list[str], message: str
) -> None:
    if installed(plugin):
        pytest.skip(f"{plugin} is installed")
    told = lab.sweep("seed=0,1", *args)
    assert (told.code, told.err) == (2, f"est-train: error: {message}\n") and list(lab.folder.iterdir()) == []


@needs_slurm
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.partitionn=gpu"],
            "hydra.launcher.partitionn: Key 'partitionn' not in",
        ),
        (["hydra/launcher=submitit_local", "hydra.launcher.nodes=2"], "hydra.launcher.nodes: must be 1; "),
        (
            ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"],
            "hydra.launcher.tasks_per_node: must be 1",
        ),
    ],
)
def test_settings_of_a_launcher_are_checked_before_anything_starts(lab: Lab, args: list[str], message: str) -> None:
    told = lab.sweep("seed=0,1", *args)
    assert told.code == 2 and told.err.startswith(f"est-train: error: {message}"), told.err
    assert list(lab.folder.iterdir()) == []


@needs_slurm
def test_without_slurm_no_job_runs_and_it_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = lab.sweep("seed=0,1", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert told.code == 2 and "srun" in told.last and told.err.count("error") == 1
    assert column(results(lab.only_sweep()), "status") == ["not run", "not run"]


@needs_slurm
def test_submitit_runs_the_jobs_in_processes_of_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-value")
    corpus = write_corpus(lab.folder / "corpus.jsonl")
    args = [*TINY, f"dataset.files={corpus}", "train.max_steps=20", "train.eval_every=0", "train.checkpoint_every=0"]
    told = lab.sweep(*args, "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=3", "seed=1,2", "sweep=s")
    assert told.code == 0, told.err
    rows = results(lab.folder / "outputs" / "s")
    assert column(rows, "status") == ["done", "done"] and column(rows, "steps") == ["20", "20"]
    assert not [path for path in lab.folder.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "sweep=s"]


@needs_search
def test_a_search_goes_on_where_it_stopped(lab: Lab) -> None:
    told = lab.sweep(*SEARCH, "stage.t1=interval(0.0,0.4)", "optim.weight_decay=0.05")
    assert told.code == 0, told.err
    ran = lab.take_ran()
    rows = results(lab.folder / "outputs" / "s")
    assert len(ran) == 4 and column(rows, "status") == ["done"] * 4 and column(rows, "job") == list("1234")
    best = min(rows, key=lambda row: float(row["stage.t1"]))
    assert best["best"] == "*"
    again = lab.sweep(*SEARCH, "stage.t1=interval(0.0,0.4)", "optim.weight_decay=0.05", "hydra.sweeper.n_trials=5")
    assert again.code == 0 and len(lab.ran) == 1, again.err
    assert column(results(lab.folder / "outputs" / "s"), "status") == ["done before"] * 4 + ["done"]


@needs_search
def test_proposals_that_cannot_run_or_fail(lab: Lab) -> None:
    lab.ends["t1=0.1,seed=1"] = JobExit(5, "loss: is not finite")
    told = lab.sweep(*SEARCH, "hydra/sweeper/sampler=grid", "stage.t1=choice(0.1,0.6)", "seed=0,1")
    assert told.code == 5 and len(lab.ran) == 4, told.err
    rows = {row["folder"].rpartition("/")[2]: row for row in results(lab.folder / "outputs" / "s")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "t1=0.1,seed=0": "done", "t1=0.1,seed=1": "failed", "t1=0.6,seed=0": "skipped", "t1=0.6,seed=1": "skipped",
    }  # fmt: skip


@needs_search
@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction: must be minimize or maximize"),
        ("hydra.sweeper.direction=[minimize,minimize]", "hydra.sweeper.direction: must be minimize or maximize"),
        ("hydra.sweeper.n_trials=some", "hydra.sweeper.n_trials: "),
        ("hydra.sweeper.custom_search_space=os.system", "hydra.sweeper.custom_search_space: is not supported"),
        ("hydra/sweeper/sampler=qqq", "hydra: In 'hydra/sweeper/optuna': Could not find 'hydra/sweeper/sampler/qqq'"),
    ],
)
def test_settings_of_a_sweeper_are_checked(lab: Lab, setting: str, key: str) -> None:
    told = lab.sweep("hydra/sweeper=optuna", setting, "optim.lr=interval(0,1)")
    assert told.code == 2 and told.err.startswith(f"est-train: error: {key}"), told.err
    assert list(lab.folder.iterdir()) == [] and lab.ran == []
