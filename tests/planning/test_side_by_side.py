"""est-plan -m as a user types it, the course of a run, and its picture."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.config import PlanConfig
from est_cli.plan import main
from est_cli.planning import make_plan
from est_cli.planning.course import column, course_of, sparkline
from est_cli.planning.plan import Plan
from tests.lab.commands import accepted, tree

pytestmark = pytest.mark.slow

STEPS = ("train.max_steps=200", "train.micro_batch=1")


def ended(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = enter("est-plan", main, ["est-plan", *args])
    out, err = capsys.readouterr()
    return code, out, err


def plan(*args: str) -> Plan:
    return make_plan(accepted(*args, schema=PlanConfig))


def test_a_row_for_each_and_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(capsys, "-m", "scheduler=three_stage,dense,g_stack", "target_saving=0.25", *STEPS)
    lines = [line.split() for line in out.splitlines()]
    rows = {line[0]: line for line in lines if len(line) > 4 and line[-1] == "%"}
    assert code == 0 and set(rows) == {"three_stage", "g_stack"}
    assert rows["g_stack"][1] == "200" and 24.8 < float(rows["g_stack"][4]) < 25.2
    assert "g_stack: target_saving=0.25 (blocks): stage.boundaries=[67]" in out.splitlines()
    assert "dense: no plan: target_saving: scheduler=dense saves nothing; use another one, or target_flops" in out
    assert any(line[:1] == ["g_stack"] and set(line[1]) == set("▂█") for line in lines)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["scheduler=dense,early_dropout", "target_saving=0.2"], "target_saving: scheduler=dense saves nothing"),
        (["scheduler=three_stage,raptr", "target_saving=0.9"], "target_saving: 0.9 is out of reach"),
        (["scheduler=three_stag,raptr"], "scheduler: no option 'three_stag'"),
        (["hydra/launcher=submitit_slurm", "seed=0,1"], "hydra/launcher: est-plan -m plans every combination itself"),
        (["run_name=x", "seed=0,1"], "run_name: has no meaning for plans"),
        (["plot=a.png,b.png"], "plot: is one picture of all plans"),
        (
            ["prices=x", "target_saving=0.1", "scheduler=n_stage,raptr"],
            "scheduler.name: is what prices with target_saving",
        ),
    ],
)
def test_where_nothing_can_be_planned(capsys: pytest.CaptureFixture[str], args: list[str], told: str) -> None:
    code, out, err = ended(capsys, "-m", *args, *STEPS)
    assert (code, out) == (2, "") and err.startswith(f"est-plan: error: {told}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["target_saving=0.2", "target_flops=1e12"], "target_flops: does not go with target_saving"),
        (["target_flops=1e12", "train.max_steps=10"], "train.max_steps: is what target_flops finds; leave it null"),
        (["target_flops=0"], "target_flops: 0.0 is out of range"),
        (["target_keep=t1"], "target_keep: t1 goes with target_saving of three_stage"),
        (["target_keep=t1", "scheduler=raptr", "target_saving=0.1"], "target_keep: t1 goes with"),
        (["target_convention=total"], "target_convention: total goes with target_saving or target_flops; leave it"),
        (["probe=true", "launch.num_processes=2"], "probe: measures one process"),
        (["plot=plan.pdf"], "plot: plan.pdf is no name of a PNG file"),
        (["plot=nowhere/plan.png"], "plot: there is no folder nowhere"),
    ],
)
def test_what_does_not_go_together(capsys: pytest.CaptureFixture[str], args: list[str], told: str) -> None:
    code, out, err = ended(capsys, *args)
    assert (code, out) == (2, "") and err.startswith(f"est-plan: error: {told}"), err


def test_the_picture_is_written_once_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ended(capsys, "-m", "scheduler=three_stage,pld", "plot=plan.png", *STEPS)
    assert code == 0 and "plot: plan.png" in out, err
    written = tree(tmp_path)
    png = (tmp_path / "plan.png").read_bytes()
    assert [*written.values()] == [png] and png[:8] == b"\x89PNG\r\n\x1a\n"
    assert min(struct.unpack(">II", png[16:24])) > 800
    code, _, err = ended(capsys, "plot=plan.png", *STEPS)
    assert code == 2 and err == "est-plan: error: plot: plan.png is there already; give another name\n"
    assert tree(tmp_path) == written


def test_the_course_is_that_of_the_stages() -> None:
    course = course_of(plan("stage.t1=0.25", "stage.t2=0.5", *STEPS), 8)
    assert column(course, "p_l") == [0.5, 0.5, 1, 1, 1, 1, 1, 1] and column(course, "p_h") == [0.5] * 4 + [1] * 4
    assert column(course, "blocks") == [0.25, 0.25, 0.5, 0.5, 1, 1, 1, 1]
    assert [point.step for point in course] == [12, 37, 62, 87, 112, 137, 162, 187]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pld", "layer_dropout", "linear", "raptr", "gradual_stacking", "early_dropout"])
def test_the_course_adds_up_to_the_plan(name: str) -> None:
    """Its mean is the share of the dense FLOPs that the ledger holds; of drawn sizes to a few percent."""
    found = plan(f"scheduler={name}", "train.max_steps=1200", "train.micro_batch=1")
    course = course_of(found, 400)
    for convention in ("blocks", "total"):
        share = 1 - found.ledger.saved_pct(convention) / 100
        assert sum(column(course, convention)) / 400 == pytest.approx(share, abs=0.01)


def test_the_course_of_drawn_sizes_is_that_of_the_steps_nearby() -> None:
    found = plan("scheduler=pld", "stage.theta=0.1", "stage.gamma=0.002", "train.max_steps=1200", "train.micro_batch=1")
    for point in course_of(found, 8)[2:]:
        theta = 0.1 + 0.9 * math.exp(-0.002 * point.step)
        assert point.p_l == pytest.approx(1 - (1 - theta) * 3 / 8, abs=0.06)


def test_a_full_block_is_the_complete_model_alone() -> None:
    assert sparkline([0.0, 0.5, 0.999, 1.0]) == "▁▄▇█"
