"""est-plan probe=true: seconds of the run's own steps, measured in a folder that is gone afterwards."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from est_cli.config import PlanConfig
from est_cli.planning import make_plan, print_plan
from est_cli.training import probe
from est_cli.training.run import Run
from est_cli.training.step import StepResult
from tests.lab.commands import accepted, tree

pytestmark = pytest.mark.slow

SMALL = ("model.hidden_size=32", "train.seq_len=32", "train.tokens_per_step=128", "train.max_steps=40")


def taking(seconds: float) -> probe.StepTime:
    """Of steps that take half as much, as much and one and a half times."""
    return probe.StepTime(seconds, seconds / 2, seconds * 1.5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """A step takes 1 s in stages 1 and 2, 4 s in stage 3, by turns half as much, as much and one and a half times; the
    first one of each stage 100 s. (step, p_l) of all."""
    now, taken, begun = [0.0], [], Counter[int]()
    real = probe.train_step

    def step(run: Run, step: int) -> StepResult:
        stage = run.scheduler.stage_at(step)
        usual = 4.0 if run.scheduler.rates_at(step).full else 1.0
        now[0] += usual * (begun[stage] % 4) / 2 if begun[stage] % 4 else 100.0
        begun[stage] += 1
        result = real(run, step)
        taken.append((step, result.ran[0][0].layers / run.spec.num_layers))
        return result

    monkeypatch.setattr(probe, "train_step", step)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: now[0])
    return taken


def test_three_steps_in_the_middle_of_each_stage(clock: list[tuple[int, float]]) -> None:
    seconds = probe.step_seconds(accepted(*SMALL, "stage.t1=10", "stage.t2=20", schema=PlanConfig))
    assert seconds == probe.StepSeconds({1: taking(1.0), 2: taking(1.0), 3: taking(4.0)}, complete=taking(4.0))
    assert clock == [*((n, 0.5) for n in range(5, 9)), *((n, 1.0) for n in (*range(15, 19), *range(30, 34)))]


def test_a_run_without_a_complete_stage_is_held_against_one(clock: list[tuple[int, float]]) -> None:
    """The dense steps come after the others."""
    args = ("scheduler=constant", "sampling.keep_ends=true", "optim.unsampled_rows=frozen", "train.micro_batch=[2]")
    seconds = probe.step_seconds(accepted(*SMALL, *args, schema=PlanConfig))
    assert seconds == probe.StepSeconds({1: taking(1.0)}, complete=taking(4.0))


def test_the_plan_tells_what_was_measured(clock: list[tuple[int, float]]) -> None:
    plan = make_plan(accepted(*SMALL, "stage.t1=10", "stage.t2=20", "probe=true", schema=PlanConfig))
    assert plan.time_s == 10 * 1 + 10 * 1 + 20 * 4
    assert plan.time_saved_pct == pytest.approx(100 * (1 - 100 / 160))
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=80))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["1", "1", "128", "00:10", "0.250", "(0.08", "to", "0.75)"] in [row[:8] for row in rows]  # 0.5/6, 1.5/2
    assert max(map(len, out.getvalue()[: out.getvalue().index("p_H ▄")].splitlines())) <= 80
    assert ["all", "51", "01:40", "0.625"] in [row[:4] for row in rows]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seconds = probe.step_seconds(accepted(*SMALL, "scheduler=g_stack", "optim=muon", schema=PlanConfig))
    assert (
        set(seconds.stages) == {1, 2} and min(one.fastest for one in (seconds.complete, *seconds.stages.values())) > 0
    )
    assert tree(tmp_path) == {}
