"""Jobs on several nodes, and the batch script of examples/, against a stand-in for Slurm with one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from est_cli.cli.sweep.jobs import plan_jobs
from est_cli.cli.sweep.nodes import Nodes, command_of, nodes_of
from est_cli.cli.sweep.overrides import take_apart
from est_cli.cli.sweep.trainings import TRAININGS
from est_cli.common.errors import ConfigError
from est_cli.config.command_line import parse
from tests.cli.sweep.test_launcher import needs_slurm
from tests.lab.lab import TINY, write_corpus
from tests.lab.slurm import LIMIT, make_cluster, wait_for
from tests.lab.sweep_lab import column, results

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "slurm" / "train.sbatch"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster, and a corpus in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in make_cluster(tmp_path / "cluster").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_corpus(tmp_path / "corpus.jsonl")
    return tmp_path / "cluster"


def settings(steps: int) -> list[str]:
    boundaries = [f"stage.t1={steps // 4}", f"stage.t2={steps // 2}"]
    return [
        *TINY,
        "dataset.files=corpus.jsonl",
        f"train.max_steps={steps}",
        *boundaries,
        "train.checkpoint_every=0",
        "train.eval_every=0",
    ]


def losses(run: Path) -> list[tuple[int, float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def trained_alone(*args: str) -> None:
    """The same run on one machine, never stopped."""
    command = ["est-train", *settings(200), *args, "run_name=alone", "launch.num_processes=2"]
    subprocess.run(command, check=True, timeout=200, capture_output=True)


def test_one_node_starts_the_command_itself() -> None:
    assert nodes_of({}) == Nodes() == nodes_of({"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_NUM_NODES": "1"})
    assert nodes_of({"SUBMITIT_EXECUTOR": "local", "SLURM_JOB_NUM_NODES": "2"}) == Nodes()


def test_nodes_that_slurm_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "a[1-2]"}
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.nodes: Slurm does not tell this job its nodes"):
        nodes_of(told)


def test_each_node_starts_its_processes(cluster: Path) -> None:
    args = ["-m", "seed=1,2", "launch.num_processes=3", "train.tokens_per_step=12288"]
    line = parse(["est-train", *args], TRAININGS.command.schema)
    job = plan_jobs(TRAININGS, take_apart(TRAININGS.command, {}, line), "s")[1]
    told = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost[1-2]"}
    nodes = nodes_of(told | {"SLURM_JOB_ID": "7", "SLURM_NODEID": "1"})
    assert nodes == Nodes(2, 1, "localhost", 20007)
    command = " ".join(command_of(job, nodes))
    assert "--nnodes 2 --node-rank 1 --nproc-per-node 3 --master-addr localhost --master-port 20007" in command
    assert command.endswith("resume=auto launch.num_processes=1") and "seed=2" in command


@needs_slurm
@pytest.mark.long
def test_submitit_trains_on_two_nodes_and_goes_on_after_a_warning(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*settings(200), "sweep=s", "seed=1", "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2"]
    monkeypatch.setenv(LIMIT, str(cluster.parent / "outputs" / "s" / "job" / "metrics.jsonl"))
    done = subprocess.run(["est-train", "-m", *args], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert column(results(cluster.parent / "outputs" / "s"), "status") == ["done"]
    state = wait_for(cluster, "1000")
    assert state["starts"] == 2, state
    trained_alone("seed=1")
    assert losses(Path("outputs/s/job")) == losses(Path("outputs/alone"))


@pytest.mark.long
def test_the_batch_script_is_queued_again_and_loses_no_step(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, str(cluster.parent / "outputs" / "big" / "metrics.jsonl"))
    monkeypatch.setenv("PROCESSES_PER_NODE", "1")
    subprocess.run(["sbatch", "--nodes=2", str(SCRIPT), *settings(200), "run_name=big"], check=True)
    state = wait_for(cluster, "1000")
    log = Path("slurm-1000.out").read_text()
    assert (state["state"], state["starts"], state["codes"][-1]) == ("COMPLETED", 2, 0), log
    trained_alone()
    assert losses(Path("outputs/big")) == losses(Path("outputs/alone"))
