"""`est-eval -m`: which jobs there are, what is told and written of them, and what is done before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from est_cli.cli.sweep.run_job import JobExit
from est_cli.config import EvalConfig
from tests.cli.sweep.test_launcher import needs_slurm
from tests.cli.sweep.test_search import needs_search
from tests.lab.commands import tree
from tests.lab.eval_lab import EvalLab
from tests.lab.sweep_lab import column, results

FIXED = ("checkpoint=first", "task=sst2,mrpc", "eval.data_dir=glue")
RATES = (*FIXED, "eval.lr=1e-3,3e-3")
NAMES = ["lr=0.001", "lr=0.003"]


def test_every_setting_is_a_row_and_the_best_of_each_task_is_marked(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep(*RATES)
    assert result.code == 0, result.err
    assert eval_lab.ran == NAMES and [config.task for config in eval_lab.configs] == [["sst2", "mrpc"]] * 2
    sweep = eval_lab.only_sweep()
    assert sweep.name.startswith("eval-first-lr-")
    rows = results(sweep)
    assert column(rows, "status") == ["done"] * 2 and column(rows, "eval.lr") == ["0.001", "0.003"]
    assert column(rows, "best_sst2") == ["", "*"] and column(rows, "best_mrpc") == ["*", ""]
    assert column(rows, "best") == ["*", ""]  # the first of equal ones
    assert [float(row["sst2"]) for row in rows] == pytest.approx([0.608, 0.61])
    assert float(rows[0]["sst2_sd"]) == pytest.approx(0.01) and rows[0]["seeds"] == "3"
    assert float(rows[1]["average"]) == pytest.approx((0.61 + 0.608) / 2)
    assert column(rows, "folder") == [f"outputs/{sweep.name}/{name}" for name in NAMES]
    assert result.out.splitlines()[3].split() == [
        *("2", "0.003", "done", "*61.0", "±", "1.0", "60.8", "±", "1.0", "60.9", "±", "1.0", "3", "75.0", "lr=0.003"),
    ]  # fmt: skip
    assert "*: the best, which is optimistic" in result.out
    jobs = json.loads((sweep / "results.json").read_text())["jobs"]
    assert [(job["best"], job["best_sst2"], job["best_mrpc"]) for job in jobs] == [
        (True, False, True), (False, True, False),
    ]  # fmt: skip


def test_the_same_command_again_runs_what_is_missing(eval_lab: EvalLab) -> None:
    eval_lab.ends["lr=0.001"] = JobExit(5, "eval.lr: loss or gradient not finite")
    result = eval_lab.sweep(*RATES)
    assert result.code == 5 and result.last.endswith("/lr=0.001: eval.lr: loss or gradient not finite")
    assert column(results(eval_lab.only_sweep()), "status") == ["failed", "done"]
    assert eval_lab.take_ran() == NAMES
    eval_lab.ends.clear()
    assert eval_lab.sweep(*RATES).code == 0 and eval_lab.take_ran() == ["lr=0.001"]
    assert column(results(eval_lab.only_sweep()), "status") == ["done", "done before"]


def test_what_adds_to_a_sweep_starts_its_jobs_again(eval_lab: EvalLab) -> None:
    one = (*FIXED, "eval.lr=choice(1e-3)")
    for more in ((), ("eval.seeds=[0,1,2,3]",), ("task=sst2", "baseline=second", "eval.data_dir=glue/../glue")):
        assert eval_lab.sweep(*one, *more).code == 0 and eval_lab.take_ran() == ["lr=0.001"], more
    eval_lab.only_sweep()
    assert eval_lab.sweep(*one, *more, "tracking.tags=[x]", "launch.num_processes=2").code == 0
    assert eval_lab.ran == []


def test_another_setting_is_another_sweep(eval_lab: EvalLab) -> None:
    for more in ((), ("eval.batch_size=8",), ("checkpoint=second",), ("eval.max_train_examples=5",)):
        assert eval_lab.sweep(*FIXED, "eval.lr=choice(1e-3)", *more).code == 0
    assert len(eval_lab.ran) == 4 == len(list((eval_lab.folder / "outputs").iterdir()))


def test_other_files_are_looked_at_again(eval_lab: EvalLab) -> None:
    one = (*FIXED, "eval.lr=choice(1e-3)")
    eval_lab.sweep(*one)
    for path in ("first/config.json", "glue/SST-2/train.tsv", "glue/MRPC/dev.tsv"):
        eval_lab.take_ran()
        with (eval_lab.folder / path).open("a") as file:
            file.write("\n")
        assert eval_lab.sweep(*one).code == 0 and eval_lab.take_ran() == ["lr=0.001"], path
    (eval_lab.folder / "glue" / "SST-2" / "test.tsv").write_text("not read")
    assert eval_lab.sweep(*one).code == 0 and eval_lab.ran == []


def test_a_damaged_summary_is_told(eval_lab: EvalLab) -> None:
    eval_lab.sweep(*RATES)
    (eval_lab.only_sweep() / "lr=0.003" / "summary.json").write_text("{")
    result = eval_lab.sweep(*RATES)
    assert result.code == 6 and "lr=0.003/summary.json: cannot be read" in result.last


@pytest.mark.parametrize(
    ("task", "tasks"),
    [
        ("task=sst2,mrpc", [["sst2", "mrpc"]]),
        ("task=choice(sst2,mrpc)", [["sst2"], ["mrpc"]]),
        ("task=[sst2],[sst2,mrpc]", [["sst2"], ["sst2", "mrpc"]]),
    ],
)
def test_a_list_of_tasks_is_one_value(eval_lab: EvalLab, task: str, tasks: list[list[str]]) -> None:
    assert eval_lab.sweep("checkpoint=choice(second)", "eval.data_dir=glue", task).code == 0
    assert [(config.checkpoint, config.task) for config in eval_lab.configs] == [("second", one) for one in tasks]


def test_an_average_stands_beside_others_of_the_same_tasks_only(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep("checkpoint=first", "eval.data_dir=glue", "task=choice(sst2,mrpc,[sst2,mrpc])")
    rows = results(eval_lab.only_sweep())
    assert [bool(row["average"]) for row in rows] == [False, False, True] and column(rows, "best") == ["", "", "*"]
    assert [bool(row["sst2"]) for row in rows] == [True, False, True] and "average" in result.out.splitlines()[1]
    apart = eval_lab.sweep("checkpoint=first", "eval.data_dir=glue", "task=choice(sst2,mrpc)", "sweep=apart")
    assert "average" not in apart.out.splitlines()[1] and "*60.7" in apart.out


def test_a_baseline_is_in_every_job(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep(*RATES, "baseline=second")
    rows = results(eval_lab.only_sweep())
    assert [float(row["difference"]) for row in rows] == pytest.approx([0.1] * 2) and "+10.0" in result.out
    both = eval_lab.sweep("checkpoint=first,second", "baseline=second", "task=sst2", "eval.data_dir=glue")
    assert both.code == 0 and "job 2 skipped: baseline: is the checkpoint itself" in both.out


def test_perplexity_alone_has_no_scores(eval_lab: EvalLab) -> None:
    (eval_lab.folder / "a.txt").write_text("text")
    result = eval_lab.sweep("checkpoint=first,second", "task=perplexity", "eval.files=[a.txt]")
    assert result.code == 0 and "optimistic" not in result.out
    rows = results(eval_lab.only_sweep())
    assert column(rows, "best_perplexity") == ["*", ""] and "sst2" not in rows[0] and "seeds" not in rows[0]


def test_a_job_whose_files_are_missing_is_skipped(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep("checkpoint=first,./third", "task=sst2", "eval.data_dir=glue")
    assert result.code == 0 and "job 2 skipped: checkpoint: there is no folder ./third" in result.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*RATES, "run_name=a"), "run_name: is made from what is swept under -m"),
        ((*RATES, "eval.lrr=1"), "eval.lrr: unknown key; did you mean 'eval.lr'?"),
        ((*RATES, "model=gpt2"), "model: unknown key"),
        ((*RATES, "eval.batch_size=x"), "eval.batch_size: 'x' is not an integer"),
        (
            (*RATES, "task=sst,mrpc"),
            "task: there is no GLUE task 'sst'; did you mean 'sst2'? (and the other 1 job cannot run either)",
        ),
        (
            (*RATES, "task=rte"),
            "glue/RTE/train.tsv: there is no such file, in no form; complete in this folder",
        ),
        ((*RATES, "checkpoint=outputs/none"), "checkpoint: there is no folder outputs/none"),
        ((*FIXED, "eval.lr=-1,0"), "eval.lr: -1.0 is out of range"),
        (("eval.lr=1,2", "task=sst2"), "checkpoint: is missing"),
        ((*RATES, "sweep=glue/x"), "sweep: 'glue/x' is no folder name"),
        ((*RATES, "hydra.run.dir=x"), "hydra.run.dir: a run's folder is"),
    ],
)
def test_sweeps_that_are_refused(eval_lab: EvalLab, args: Sequence[str], message: str) -> None:
    before = tree(eval_lab.folder)
    result = eval_lab.sweep(*args)
    assert (result.code, result.out, eval_lab.ran) == (2, "", []), result
    assert result.err.startswith(f"est-eval: error: {message}") and result.err.count("\n") == 1, result.err
    assert tree(eval_lab.folder) == before


@pytest.mark.parametrize("content", [{"records": []}, {"jobs": []}, {"jobs": [], "command": "est-train"}])
def test_results_of_another_command_are_not_overwritten(eval_lab: EvalLab, content: dict[str, Any]) -> None:
    """Those of an evaluation, and of a sweep of est-train, whose results tell no command where they are old."""
    place = eval_lab.folder / "outputs" / "s"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(content))
    result = eval_lab.sweep(*RATES, "sweep=s")
    assert (result.code, result.err) == (
        2, "est-eval: error: sweep: outputs/s holds results of another command; choose another name\n"
    )  # fmt: skip
    assert json.loads((place / "results.json").read_text()) == content and not (place / ".lock").exists()


SEARCH = (*FIXED, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "sweep=s", "eval.lr=interval(0.0001,0.01)")


@needs_search
def test_a_search_goes_for_the_highest_average(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep(*SEARCH)
    assert result.code == 0, result.err
    assert len(eval_lab.take_ran()) == 2
    place = eval_lab.folder / "outputs" / "s"
    best = max(results(place), key=lambda row: float(row["average"]))
    assert best["best"] == "*"
    found = (place / "launcher" / "optimization_results.yaml").read_text()
    assert f"eval.lr: {best['eval.lr']}" in found
    again = eval_lab.sweep(*SEARCH, "hydra.sweeper.n_trials=3")
    assert again.code == 0 and len(eval_lab.take_ran()) == 1, again.err
    assert column(results(place), "status") == ["done before"] * 2 + ["done"]


@needs_search
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("hydra.sweeper.direction=minimize",), "hydra.sweeper.direction: must be maximize; the objective is average"),
        (("task=perplexity", "eval.files=[a.txt]"), "task: a search goes by the average score of GLUE tasks"),
    ],
)
def test_searches_that_are_refused(eval_lab: EvalLab, args: Sequence[str], message: str) -> None:
    result = eval_lab.sweep(*SEARCH, *args)
    assert result.code == 2 and result.err.startswith(f"est-eval: error: {message}"), result.err


@needs_search
def test_tasks_are_not_searched(eval_lab: EvalLab) -> None:
    result = eval_lab.sweep(*(arg for arg in SEARCH if not arg.startswith("task=")), "task=choice(sst2,mrpc)")
    assert result.code == 2 and result.err.startswith("est-eval: error: task: cannot be searched"), result.err


@needs_slurm
def test_a_launcher_gets_what_is_left_to_run(eval_lab: EvalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the launcher: submitit starts it nowhere here."""
    eval_lab.sweep(*RATES, "sweep=s")
    monkeypatch.setenv("PATH", "/nowhere")
    result = eval_lab.sweep(
        *FIXED, "eval.lr=1e-3,3e-3,1e-2", "sweep=s", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"
    )
    assert result.code == 2 and "srun" in result.last
    rows = results(eval_lab.folder / "outputs" / "s")
    assert column(rows, "status") == ["done before", "done before", "not run"]


def score_of_one(config: EvalConfig, task: str, seed: int) -> float:
    return 0.5


def test_one_task_and_one_seed_have_neither_average_nor_spread(eval_lab: EvalLab) -> None:
    eval_lab.score = score_of_one
    result = eval_lab.sweep("checkpoint=first,second", "task=sst2", "eval.data_dir=glue", "eval.seeds=[0]")
    table = result.out.splitlines()
    assert "average" not in table[1] and "±" not in table[2] and "*50.0" in table[2] and " 50.0" in table[3]
    assert column(results(eval_lab.only_sweep()), "average") == ["0.5", "0.5"]
