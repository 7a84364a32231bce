"""Hydra's launchers: with that of Hydra itself, and with the plugin where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from est_cli.cli.sweep.jobs import plan_jobs
from est_cli.cli.sweep.launcher import Settings, launch_jobs
from est_cli.cli.sweep.overrides import take_apart
from est_cli.cli.sweep.results import Status, begin, planned_row, rows_of
from est_cli.cli.sweep.run_job import JobExit
from est_cli.cli.sweep.trainings import TRAININGS
from est_cli.common.errors import install_hint
from est_cli.config.command_line import CommandLine
from est_cli.storage.run_dir import RunDir
from tests.lab.lab import TINY, write_corpus
from tests.lab.sweep_lab import Lab, column, results


def has_plugin(name: str) -> bool:
    plugins = importlib.util.find_spec("hydra_plugins")
    return plugins is not None and importlib.util.find_spec(f"hydra_plugins.{name}") is not None


installed = has_plugin("hydra_submitit_launcher")
needs_joblib = pytest.mark.skipif(not has_plugin("hydra_joblib_launcher"), reason="pip install 'est-cli[joblib]'")
needs_slurm = pytest.mark.skipif(not installed, reason="pip install 'est-cli[slurm]'")


def opened(lab: Lab) -> Path:
    sweep = Path("outputs", "s")
    sweep.mkdir(parents=True)
    return sweep


def test_a_launcher_gets_what_is_left_to_run(lab: Lab) -> None:
    sweep = opened(lab)
    lab.ends["seed=2"] = JobExit(9, "train.micro_batch: out of memory")
    argv = ["seed=0,1,2,-3"]
    parts = take_apart(TRAININGS.command, {}, CommandLine(argv, argv, None))
    jobs = plan_jobs(TRAININGS, parts, "s")
    RunDir(sweep / "seed=0").root.mkdir()
    RunDir(sweep / "seed=0").summary.write_text("{}")
    begin(TRAININGS, sweep, [planned_row(sweep, job) for job in jobs])
    launch_jobs(Settings([]), jobs, sweep)
    assert lab.ran == ["seed=1", "seed=2"]
    assert [row.status for row in rows_of(sweep)] == [Status.done_before, Status.done, Status.failed, Status.skipped]
    assert not list(lab.folder.rglob(".hydra"))
    assert "seed=0" not in (sweep / "launcher" / "multirun.yaml").read_text()
    launch_jobs(Settings([]), jobs[:1], sweep)  # nothing left


@pytest.mark.skipif(installed, reason="the plugin is installed")
def test_a_plugin_that_is_not_there_is_named_with_its_extra(lab: Lab) -> None:
    result = lab.sweep("seed=0,1", "hydra/launcher=submitit_slurm")
    message = f"hydra/launcher: submitit_slurm is a plugin; {install_hint('slurm')}"
    assert (result.code, result.err) == (2, f"est-train: error: {message}\n") and list(lab.folder.iterdir()) == []


@needs_slurm
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.partitionn=gpu"],
            "hydra.launcher.partitionn: Key 'partitionn' not in",
        ),
        (
            ["hydra/launcher=submitit_local", "hydra.launcher.nodes=2"],
            "hydra.launcher.nodes: must be 1 for submitit_local",
        ),
        (
            ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"],
            "hydra.launcher.tasks_per_node: must be 1",
        ),
    ],
)
def test_settings_of_a_launcher_are_checked_before_anything_starts(lab: Lab, args: list[str], message: str) -> None:
    result = lab.sweep("seed=0,1", *args)
    assert result.code == 2 and result.err.startswith(f"est-train: error: {message}"), result.err
    assert list(lab.folder.iterdir()) == []


@needs_slurm
def test_without_slurm_no_job_runs_and_it_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = lab.sweep("seed=0,1", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    assert result.code == 2 and "srun" in result.last and result.err.count("error") == 1
    assert not (lab.folder / "outputs").exists(), "a sweep of which nothing ran leaves nothing"


PLUGINS = [
    pytest.param("submitit_local", "hydra.launcher.timeout_min=3", marks=needs_slurm),
    pytest.param("joblib", "hydra.launcher.n_jobs=2", marks=[needs_joblib, pytest.mark.long]),
]


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "setting"), PLUGINS)
def test_a_plugin_runs_the_jobs_in_processes_of_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, launcher: str, setting: str
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-value")
    corpus = write_corpus(lab.folder / "corpus.jsonl")
    args = [*TINY, f"dataset.files={corpus}", "train.max_steps=20", "train.eval_every=0", "train.checkpoint_every=0"]
    result = lab.sweep(*args, f"hydra/launcher={launcher}", setting, "seed=1,2", "sweep=s")
    assert result.code == 0, result.err
    rows = results(lab.folder / "outputs" / "s")
    assert column(rows, "status") == ["done", "done"] and column(rows, "steps") == ["20", "20"]
    assert not [path for path in lab.folder.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
