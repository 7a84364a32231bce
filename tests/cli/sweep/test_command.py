"""Sweeps whose jobs do not train: which jobs there are, in which order, and what is told and written of them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Sequence

import pytest
import yaml

from est_cli.cli.sweep.run_job import JobExit, JobSignals
from tests.lab.commands import tree
from tests.lab.sweep_lab import DONE, Lab, column, results

PAIRS = ("stage.t1=0.1,0.4", "stage.t2=0.3,0.5")
NAMES = ["t1=0.1,t2=0.3", "t1=0.1,t2=0.5", "t1=0.4,t2=0.3", "t1=0.4,t2=0.5"]
"""The third cannot run."""


def test_every_pair_is_a_row(lab: Lab) -> None:
    result = lab.sweep(*PAIRS)
    assert result.code == 0, result.err
    assert lab.ran == [NAMES[0], NAMES[1], NAMES[3]]
    sweep = lab.only_sweep()
    assert sweep.name == "gpt2_tiny-three_stage-t1,t2"
    rows = results(sweep)
    assert column(rows, "status") == ["done", "done", "skipped", "done"]
    assert column(rows, "folder") == [f"outputs/{sweep.name}/{name}" for name in NAMES]
    assert [(row["stage.t1"], row["stage.t2"]) for row in rows] == [
        ("0.1", "0.3"),
        ("0.1", "0.5"),
        ("0.4", "0.3"),
        ("0.4", "0.5"),
    ]
    assert column(rows, "best") == ["*", "", "", ""] and rows[0]["steps"] == "300"
    assert rows[2]["reason"].startswith("stage.t1: step 120 lies after stage.t2")
    assert "*3.1000" in result.out
    assert "job 3 skipped: stage.t1: step 120" in result.out
    assert result.out.endswith(f"next      est-report outputs/{sweep.name}\n")
    assert [line for line in result.err.splitlines() if line.startswith("job ")] == [
        f"job {number}/4  {NAMES[number - 1]}" for number in (1, 2, 4)
    ]


def test_the_same_command_again_trains_nothing_twice(lab: Lab) -> None:
    lab.ends[NAMES[1]] = JobExit(137, "killed by SIGKILL")
    assert lab.sweep(*PAIRS).code == 137
    assert lab.take_ran() == [NAMES[0], NAMES[1], NAMES[3]]
    lab.ends.clear()
    assert lab.sweep(*PAIRS).code == 0
    assert lab.take_ran() == [NAMES[1]]
    assert column(results(lab.only_sweep()), "status") == ["done before", "done", "skipped", "done before"]


def test_a_sweep_goes_where_its_runs_go(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    place = lab.folder / "scratch"
    assert lab.sweep("seed=0,1", f"paths.outputs={place}").code == 0
    assert lab.take_ran() == ["seed=0", "seed=1"]
    monkeypatch.setenv("EST_OUTPUTS", str(place))
    assert lab.sweep("seed=0,1,2", "paths.data=d").code == 0
    assert lab.take_ran() == ["seed=2"]  # the same sweep: its name depends on no place
    (sweep,) = place.iterdir()
    assert column(results(sweep), "folder") == [f"{sweep}/seed={seed}" for seed in range(3)]
    assert not (lab.folder / "outputs").exists()


def test_the_place_of_a_sweep_is_not_swept(lab: Lab) -> None:
    told = "est-train: error: paths.outputs: is one folder for all jobs; give one name"
    assert lab.sweep("paths.outputs=a,b").last == told
    assert lab.sweep("paths.outputs=~", "seed=0,1").code == 2
    assert list(lab.folder.iterdir()) == []


def test_a_longer_list_in_another_order_takes_what_is_there(lab: Lab) -> None:
    lab.sweep("seed=0,1", "optim.lr=0.001", "train.seq_len=64", "train.log_every=1")
    assert lab.take_ran() == ["seed=0", "seed=1"]
    lab.sweep("train.seq_len=64", "seed=2,1,0", "optim.lr=0.001", "train.log_every=7")
    assert lab.take_ran() == ["seed=2"]
    assert column(results(lab.only_sweep()), "status") == ["done", "done before", "done before"]
    lab.sweep("seed=5,1", "optim.lr=0.001", "train.seq_len=64")
    assert lab.take_ran() == ["seed=5"]
    assert column(results(lab.only_sweep()), "seed") == ["5", "1"]  # the rows of the last command
    lab.sweep("seed=0", "optim.lr=0.001,0.002", "train.seq_len=64")
    assert lab.take_ran() == ["lr=0.001", "lr=0.002"]


@pytest.mark.long
def test_every_way_to_list_values(lab: Lab) -> None:
    args = (
        "sweep=mine",
        "seed=range(0,3)",
        "scheduler=glob([dense*,three*],exclude=three*)",
        "optim.lr=choice(0.1,1e-1,0.2)",
        "tokenizer='a b',c",
    )
    assert lab.sweep(*args).code == 0
    names = {f"seed={seed},scheduler=dense,lr={lr}" for seed in range(3) for lr in ("0.1", "0.2")}
    assert len(lab.ran) == 12 and {name.partition(",tokenizer=")[0] for name in lab.ran} == names
    rows = results(lab.folder / "outputs" / "mine")
    assert set(column(rows, "tokenizer")) == {"a b", "c"} and rows[0]["seed"] == "0"


def test_groups_and_what_only_some_can_have(lab: Lab) -> None:
    result = lab.sweep("scheduler=three_stage,dense", "stage.t1=0.1,0.2", "model=llama_tiny")
    assert result.code == 0 and lab.only_sweep().name.startswith("llama_tiny-scheduler,t1-")
    assert lab.ran == ["scheduler=three_stage,t1=0.1", "scheduler=three_stage,t1=0.2"]
    assert lab.sweep("scheduler=three_stage,dense", "stage=paper").code == 0
    assert lab.take_ran()[2:] == ["scheduler=three_stage"]


def test_a_failed_job_is_a_row_and_the_first_gives_the_exit_code(lab: Lab) -> None:
    lab.ends = {
        "seed=1": JobExit(5, "loss: is not finite"),
        "seed=2": JobExit(137, "killed by SIGKILL"),
        "seed=3": JobExit(2, "late"),
    }
    result = lab.sweep("seed=0,1,2,3,4")
    assert result.code == 5 and lab.ran == [f"seed={seed}" for seed in range(5)]
    assert result.last == "est-train: error: outputs/gpt2_tiny-three_stage-seed/seed=1: loss: is not finite"
    rows = results(lab.only_sweep())
    assert column(rows, "status") == ["done", "failed", "failed", "failed", "done"]
    assert column(rows, "exit_code") == ["", "5", "137", "2", ""]
    assert "failed (5)" in result.out and "job 3 failed (137): killed by SIGKILL" in result.out


def test_a_job_that_ends_well_without_a_summary_has_failed(lab: Lab) -> None:
    lab.ends["seed=0"] = JobExit(0, "of nothing")
    assert lab.sweep("seed=0,1", "sweep=s").code == 1
    assert column(results(lab.folder / "outputs/s"), "status") == ["failed", "done"]


def test_the_rows_so_far_are_there_while_a_job_runs(lab: Lab) -> None:
    seen: list[list[str]] = []

    def look(signals: JobSignals) -> JobExit:
        seen.append(column(results(lab.only_sweep()), "status"))
        return DONE

    lab.ends = {"seed=0": look, "seed=2": look}
    lab.sweep("seed=0,1,2")
    assert seen == [["not run"] * 3, ["done", "done", "not run"]]


def test_a_signal_stops_after_the_running_job(lab: Lab) -> None:
    def stopped(signals: JobSignals) -> JobExit:
        os.kill(os.getpid(), signal.SIGTERM)
        return JobExit(143, "after step 7")

    lab.ends["seed=1"] = stopped
    before = signal.getsignal(signal.SIGTERM)
    result = lab.sweep("seed=0,1,2,3")
    assert result.code == 143 and lab.take_ran() == ["seed=0", "seed=1"]
    assert result.last == "est-train: stopped: in job 2 of 4; the same command continues the sweep"
    assert column(results(lab.only_sweep()), "status") == ["done", "stopped", "not run", "not run"]
    assert "job 2 stopped: after step 7" in result.out
    assert signal.getsignal(signal.SIGTERM) is before
    lab.ends.clear()
    assert lab.sweep("seed=0,1,2,3").code == 0 and lab.take_ran() == ["seed=1", "seed=2", "seed=3"]


def test_a_second_sweep_of_the_same_folder_is_told(lab: Lab) -> None:
    held = lab.folder / "outputs" / "s" / ".lock"
    held.parent.mkdir(parents=True)
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = lab.sweep("seed=0,1", "sweep=s")
    assert result.code == 8 and lab.ran == [] and "outputs/s: in use by another process; wait" in result.err
    assert "sweep=" in result.last and result.err.count("\n") == 1 and result.out == ""


def test_one_value_is_a_sweep_of_one(lab: Lab) -> None:
    assert lab.sweep("seed=1").code == 0 and lab.take_ran() == ["job"]
    assert lab.only_sweep().name.startswith("gpt2_tiny-three_stage-")
    assert lab.sweep("seed=1").code == 0 and lab.take_ran() == []


def test_a_recipe_holds_its_sweep(lab: Lab) -> None:
    recipe = lab.folder / "own" / "experiment" / "grid.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\nhydra: {sweeper: {params: {stage.t1: '0.1,0.2', seed: '0,1'}}}\n")
    args = (f"--config-dir={lab.folder / 'own'}", "experiment=grid", "sweep=s")
    assert lab.sweep(*args).code == 0
    assert lab.take_ran() == [f"t1={t1},seed={seed}" for t1 in ("0.1", "0.2") for seed in (0, 1)]
    assert lab.sweep(*args, "seed=0", "stage.t1=0.3").code == 0  # a command line decides before its recipe does
    assert lab.take_ran() == ["job"]


def test_what_the_jobs_of_a_sweep_share_is_shown(lab: Lab) -> None:
    for asked, told in ((("--cfg", "job"), "lr: 0.5"), (("--help",), "optim.lr=0.5 ")):
        result = lab.sweep("seed=7,8", "optim.lr=0.5", "sweep=s", *asked)
        assert result.code == 0 and told in result.out and lab.ran == []
        assert "seed: 0" in result.out or "seed=0 " in result.out
    assert list(lab.folder.iterdir()) == []


def refused(lab: Lab, *args: str) -> str:
    before = tree(lab.folder)
    result = lab.sweep(*args)
    assert (result.code, result.out, lab.ran) == (2, "", []), result
    assert result.err.startswith("est-train: error: ") and result.err.count("\n") == 1, result.err
    assert tree(lab.folder) == before
    return result.err.removeprefix("est-train: error: ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["seeed=1,2"], "seeed: unknown key; did you mean 'seed'?"),
        (["seed=1,2", "train.lrr=1"], "train.lrr: unknown key"),
        (["+seed=1,2"], "seed: is known"),
        (["scheduler=dense,dence"], "scheduler: no option 'dence'; did you mean 'dense'? "),
        (["hydra/sweeper=optuna", "seed=1"], "--multirun: nothing is searched; "),
        (["model=gpt2,null"], "model: no option null"),
        (["model=glob(x*)"], "model: model=glob(x*) has no values"),
        (["seed=glob(*)"], "seed: seed=glob(*) has no values"),
        (["seed=range(3,3)"], "seed: seed=range(3,3) has no values"),
        (["seed=1,2", "seed=3"], "seed: is given twice"),
        (["optim.lr=0.1,fast"], "optim.lr: 'fast' is not a number"),
        (["seed=1,2", "optim.lr=fast"], "optim.lr: 'fast' is not a number"),
        (["optim.lr=interval(0,1)"], "optim.lr: interval() is for a search"),
        (["run_name=a,b"], "run_name: is made from what is swept"),
        (["seed=1,2", "run_name=a"], "run_name: is made from what is swept"),
        (["seed=1,2", "resume=auto"], "resume: has no place under -m"),
        (["sweep=a,b"], "sweep: is one folder for all jobs"),
        (["seed=1,2", "sweep=../a"], "sweep: '../a' is no folder name"),
        (["stage.t1=0.6,0.7", "stage.t2=0.5"], "stage.t1: step 180 lies after stage.t2 (step 150)"),
        (["seed=-1,-2"], "seed: -1 is out of range"),
        (["seed=1,2", "hydra.run.dir=x"], "hydra.run.dir: a run's folder is"),
        (["seed=1,2", "hydra.sweep.dir=x"], "hydra.sweep.dir: a sweep's folder is"),
        (["seed=1,2", "hydra.launcher._target_=os.system"], "hydra.launcher._target_: Hydra has it, and it is fixed"),
        (["seed=1,2", "hydra.sweeper.params.seed=1"], "hydra.sweeper.params.seed: is not supported"),
        (["seed=1,2", "hydra.launcher.name=${oc.env:HOME}"], "hydra.launcher.name: resolvers and _target_"),
        (["seed=1,2", "hydra.launcher.name=a,b"], "hydra.launcher.name: takes one value"),
        (["seed=1,2", "hydra/launcher=qqq"], "hydra/launcher: no option 'qqq'; choose one of basic"),
        (["seed=1,2", "hydra.launcher.qqq=1"], "hydra.launcher.qqq: Key 'qqq' not in 'BasicLauncherConf'"),
    ],
)
def test_sweeps_that_are_refused(lab: Lab, args: Sequence[str], message: str) -> None:
    assert refused(lab, *args).startswith(message)


def test_a_sweep_of_torchrun_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert refused(lab, "seed=0,1").startswith("--multirun: a sweep starts the processes of its jobs itself")


def test_the_folder_of_a_run_is_no_folder_for_a_sweep(lab: Lab) -> None:
    lab.sweep("seed=0,1", "sweep=s")
    lab.take_ran()
    assert refused(lab, "seed=0,1", "sweep=s", "train.max_steps=7").startswith(
        "train.max_steps: the run in outputs/s/seed=0 was"
    )
    (lab.folder / "outputs" / "s" / "config.yaml").write_text("seed: 0\n")
    assert refused(lab, "seed=0,1", "sweep=s").startswith("sweep: outputs/s is the folder of a run")


def test_a_damaged_job_hurts_no_other(lab: Lab) -> None:
    lab.ends["seed=0"] = JobExit(137, "killed by SIGKILL")
    lab.sweep("seed=0,1", "sweep=s")
    (lab.folder / "outputs/s/seed=0/config.yaml").write_text("]")
    lab.take_ran()
    result = lab.sweep("seed=0,1,2", "sweep=s")
    assert result.code == 4 and lab.ran == ["seed=0", "seed=2"]
    assert column(results(lab.folder / "outputs/s"), "status") == ["failed", "done before", "done"]


def test_swept_words_that_look_like_numbers_are_runs_of_their_own(lab: Lab) -> None:
    assert lab.sweep("tracking.project=1_1,11,true", "tokenizer=1_0", "sweep=1_1").code == 0
    sweep = lab.folder / "outputs" / "1_1"
    assert column(results(sweep), "tracking.project") == ["1_1", "11", "true"]
    configs = [yaml.safe_load((sweep / name / "config.yaml").read_text()) for name in lab.take_ran()]
    assert [config["tracking"]["project"] for config in configs] == ["1_1", "11", "true"]
    assert {config["tokenizer"] for config in configs} == {"1_0"}


def test_a_run_that_was_lost_at_its_end_is_not_done(lab: Lab) -> None:
    lab.sweep("seed=0,1")
    assert lab.take_ran() == ["seed=0", "seed=1"]
    summary = lab.only_sweep() / "seed=0" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"not_finite": ["validation loss"]}))
    lab.ends["seed=0"] = JobExit(5, "after the last step the validation loss is not finite")
    assert lab.sweep("seed=0,1").code == 5
    assert column(results(lab.only_sweep()), "status") == ["failed", "done before"]


def test_only_files_of_ours_are_removed_from_a_sweep_and_none_behind_a_link(lab: Lab) -> None:
    lab.sweep("seed=0,1")
    sweep, victim = lab.only_sweep(), lab.folder / "victim"
    (sweep / ".tmp-draft").mkdir()
    (sweep / ".tmp-results.csv-12").touch()
    assert lab.sweep("seed=0,1").code == 0
    assert (sweep / ".tmp-draft").is_dir() and not (sweep / ".tmp-results.csv-12").exists()
    (sweep / ".jobs").rename(victim)
    before = tree(victim)
    (sweep / ".jobs").symlink_to(victim)
    result = lab.sweep("seed=0,1")
    assert result.code == 6 and ".jobs: a link; " in result.last
    assert tree(victim) == before
