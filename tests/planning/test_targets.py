"""Targets: the settings that are found, typed again, give a plan that has what was asked for."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from rich.console import Console

from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig
from est_cli.config.resolve import planned_ledger_of
from est_cli.config.schedulers import SCHEDULERS
from est_cli.est import FlopsLedger
from est_cli.planning import make_plan, print_plan
from est_cli.planning.targets import TargetSolution, solve_target
from tests.lab.commands import accepted

pytestmark = pytest.mark.slow

SOLVABLE = [name for name in SCHEDULERS if name not in ("dense", "early_dropout")]
LONG = "train.max_steps=150000"


def ledger_of(config: PlanConfig) -> FlopsLedger:
    """By the planner itself, without its memory estimate; test_plan.py compares ledgers with other counts."""
    from est_cli.families import spec_of
    from est_cli.models import hf_config

    return planned_ledger_of(config, spec_of(hf_config(config.model)))


def found(*args: str) -> TargetSolution:
    made = solve_target(accepted(*args, schema=PlanConfig), ledger_of)
    assert made is not None
    return made


def typed_again(made: TargetSolution, *args: str) -> FlopsLedger:
    kept = [arg for arg in args if not arg.startswith("target_")]
    return ledger_of(accepted(*kept, *made.settings.split(), schema=PlanConfig))


@pytest.mark.some(5)
@pytest.mark.slow
@pytest.mark.parametrize("saving", [0.2, 0.4])
@pytest.mark.parametrize("name", ["three_stage", "n_stage", "linear", "cosine", "raptr", "gradual_stacking", "g_stack"])
def test_gpt2_base_by_boundaries(name: str, saving: float) -> None:
    """Its twelve layers and heads make every saving of a long run reachable to a step."""
    args = ("model=gpt2", LONG, f"scheduler={name}", f"target_saving={saving}")
    if name == "raptr" and saving > 0.33:
        pytest.skip("its default depths save a third at most")
    made = found(*args)
    assert abs(typed_again(made, *args).saved_pct("blocks") - 100 * saving) < 0.001
    assert made.request == f"target_saving={saving} (blocks)"


@pytest.mark.some(3)
@pytest.mark.slow
@pytest.mark.parametrize("convention", ["blocks", "total"])
@pytest.mark.parametrize("name", SOLVABLE)
def test_every_scheduler_that_saves_anything(name: str, convention: str) -> None:
    rates = ["stage.p_h=1", "stage.p_l=1", "sampling.multiple_of=1"] if name == "constant" else []
    args = (f"scheduler={name}", "train.max_steps=400", "target_saving=0.15", f"target_convention={convention}", *rates)
    made = found(*args)
    assert abs(typed_again(made, *args).saved_pct(convention) - 15.0) <= 0.25
    assert (
        solve_target(accepted(*[arg for arg in args if not arg.startswith("target_")], schema=PlanConfig), ledger_of)
        is None
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["n_stage", "raptr", "gradual_stacking"])
def test_boundaries_keep_their_ratios(name: str) -> None:
    made = found(f"scheduler={name}", LONG, "target_saving=0.1")
    before = accepted(f"scheduler={name}", schema=PlanConfig).stage.boundaries
    after = made.config.stage.boundaries
    assert isinstance(before, list) and isinstance(after, list)
    for (a, b), (c, d) in zip(pairwise(before), pairwise(after), strict=True):
        assert a / b == pytest.approx(c / d, abs=1e-3)


@pytest.mark.parametrize(
    ("keep", "t1", "t2", "wanted", "settings"),
    [
        ("ratio", 0.2, 0.4, 0.25, "stage.t1=200 stage.t2=400"),  # (200*0.75 + 200*0.5) / 1000
        ("ratio", 0.2, 0.4, 0.125, "stage.t1=100 stage.t2=200"),
        ("ratio", 0.5, 0.5, 0.75, "stage.t1=1000 stage.t2=1000"),
        ("t1", 0.2, 0.4, 0.15, "stage.t1=200 stage.t2=200"),
        ("t1", 0.2, 0.4, 0.55, "stage.t1=200 stage.t2=1000"),
        ("t2", 0.2, 0.4, 0.2, "stage.t1=0 stage.t2=400"),
        ("t2", 0.2, 0.4, 0.3, "stage.t1=400 stage.t2=400"),
        ("t2", 0.2, 0.4, 0.25, "stage.t1=200 stage.t2=400"),
    ],
)
def test_three_stage_by_hand(keep: str, t1: float, t2: float, wanted: float, settings: str) -> None:
    """In gpt2_tiny stage 1 saves three quarters of the blocks, stage 2 a half."""
    args = (f"stage.t1={t1}", f"stage.t2={t2}", f"target_saving={wanted}", f"target_keep={keep}")
    assert found("train.max_steps=1000", *args).settings == settings


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["target_keep=ratio", "target_saving=0.63"], "with target_keep=ratio these rates save 0 to 0.625"),
        (["target_keep=t1", "target_saving=0.14"], "with target_keep=t1 these rates save 0.15 to 0.55"),
        (["target_keep=t1", "target_saving=0.56"], "with target_keep=t1 these rates save 0.15 to 0.55"),
        (["target_keep=t2", "target_saving=0.31"], "with target_keep=t2 these rates save 0.2 to 0.3"),
        (["stage.p_h=1", "stage.p_m=1", "stage.p_l=1", "target_saving=0.1"], "these rates save 0 to 0"),
        (["stage.t1=0", "target_saving=0.51"], "these rates save 0 to 0.5"),
    ],
)
def test_out_of_reach(args: list[str], told: str) -> None:
    with pytest.raises(
        ConfigError, match=f"^target_saving: .* is out of reach; .*{told}; choose one between, or other rates$"
    ):
        found("train.max_steps=1000", "stage.t1=0.2", "stage.t2=0.4", *args)


def test_the_told_bounds_are_within_reach() -> None:
    """They are cut to four digits, inwards: 0.5833 for 7/12, not 0.5834."""
    args = ("train.max_steps=900", "stage.t1=0.2", "stage.t2=0.6")
    with pytest.raises(ConfigError, match=r"save 0 to 0\.5833; choose"):
        found(*args, "target_saving=0.9")
    found(*args, "target_saving=0.5833")


@pytest.mark.parametrize(
    ("name", "saving", "told"),
    [
        ("raptr", 0.6, r"scheduler=raptr these rates save 0 to 0\.\d+; choose one between"),
        ("constant", 0.25, r"falls between whole units of this model; the nearest is 0\.375$"),
    ],
)
def test_what_other_schedulers_cannot_save(name: str, saving: float, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^target_saving: {saving:g} .*{told}"):
        found(f"scheduler={name}", f"target_saving={saving}", "train.max_steps=300")


@pytest.mark.some(8)
@pytest.mark.slow
@pytest.mark.parametrize("convention", ["blocks", "total"])
@pytest.mark.parametrize("name", [*SCHEDULERS])
def test_equal_flops_to_half_a_step(name: str, convention: str) -> None:
    args = (f"scheduler={name}", "target_flops=1e13", f"target_convention={convention}")
    made = found(*args)
    ledger, steps = typed_again(made, *args), made.config.train.max_steps
    assert steps is not None
    assert abs(getattr(ledger.used, convention) - 1e13) <= 1.01 * getattr(ledger.dense, convention) / steps
    assert made.settings == f"train.max_steps={made.config.train.max_steps}"


def test_equal_flops_of_the_complete_model_by_hand() -> None:
    """gpt2_tiny: 6 FLOPs for each of 4 * (4 * 128^2 + 2 * 128 * 512) weights and of 4,096 tokens."""
    step = 6 * 4 * (4 * 128**2 + 2 * 128 * 512) * 4096
    assert found("scheduler=dense", f"target_flops={70.4 * step}").settings == "train.max_steps=70"
    assert found("scheduler=dense", f"target_flops={70.6 * step}").settings == "train.max_steps=71"
    with pytest.raises(ConfigError, match=r"^target_flops: .* out of reach; one step uses 1\.9"):
        found("scheduler=dense", f"target_flops={0.5 * step}")


def test_rates_that_keep_both_ends() -> None:
    """A constant p_l below 3/8 of 4 layers would keep one layer, which is no rate to search among."""
    args = ("scheduler=constant", "sampling.keep_ends=true", "stage.p_h=1", "stage.p_m=1")
    made = found(*args, "target_saving=0.5")
    assert typed_again(made, *args, "target_saving=0.5").saved_pct("blocks") == 50.0
    with pytest.raises(
        ConfigError, match=r"^target_saving: 0\.6 is out of reach; .* save 0 to 0\.5; choose one between"
    ):
        found(*args, "target_saving=0.6")


def test_equal_flops_where_boundaries_are_steps() -> None:
    """They may lie behind the 300 steps of a run whose length is not given, but not behind those that are found."""
    late = ("stage.t1=400", "stage.t2=0.9", "optim.warmup=500")
    assert found(*late, "target_flops=1e14").settings == "train.max_steps=9589"
    step = 6 * 4 * (4 * 128**2 + 2 * 128 * 512) * 4096
    stages = ("stage.t1=100", "stage.t2=200")  # 75 steps' worth, without a last stage
    assert found(*stages, f"target_flops={75.4 * step}").settings == "train.max_steps=200"
    for wanted in (30, 70, 73):
        with pytest.raises(ConfigError, match=r"^target_flops: .* out of reach; the stages take 200 steps, which use"):
            found(*stages, f"target_flops={wanted * step}")


def test_what_was_found_must_be_a_run() -> None:
    with pytest.raises(ConfigError, match=r"^target_flops: 1e\+12 takes 70 steps, and for them optim\.warmup: step"):
        found("optim.warmup=100", "target_flops=1e12")
    assert found("target_flops=1e12", "target_convention=total").settings.startswith("train.max_steps=")


def test_what_was_found_is_told_and_is_what_is_planned() -> None:
    out = io.StringIO()
    plan = make_plan(accepted("scheduler=raptr", "target_saving=0.3", "train.micro_batch=1", schema=PlanConfig))
    print_plan(plan, Console(file=out, width=80))
    assert "target_saving=0.3 (blocks): stage.boundaries=[90,180,270]" in out.getvalue().splitlines()
    assert [stage.first_step for stage in plan.stages] == [0, 90, 180, 270]
