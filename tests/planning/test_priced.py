"""est-plan prices=...: what it predicts and designs, by prices that are made up."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.common.errors import ConfigError
from est_cli.config import PlanConfig
from est_cli.config.prices import read_prices
from est_cli.config.resolve import planned_ledger_of, resolve
from est_cli.est import SamplingRates
from est_cli.families import spec_of
from est_cli.models import hf_config
from est_cli.plan import main
from est_cli.planning import make_plan
from est_cli.planning.notes import notes
from est_cli.planning.plan import Plan
from est_cli.planning.priced import saved_shares
from tests.lab.commands import accepted
from tests.lab.price_files import price_content, write_prices

pytestmark = pytest.mark.slow

HEADS, COLUMNS, ALL = (0.5, 1.0, 1.0), (1.0, 0.5, 1.0), (0.5, 0.5, 0.5)
STEPS = "train.max_steps=1000"
GAIN = 0.001


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Heads are cheap early, columns late; the lot costs more than it saves."""
    early, late = {HEADS: 0.01, COLUMNS: 0.1, ALL: 0.8}, {HEADS: 0.2, COLUMNS: 0.02, ALL: 0.9}
    content = price_content(accepted("scheduler=dense", STEPS), {200: early, 600: late}, GAIN, error=0.01)
    return str(write_prices(tmp_path / "prices", content))


def planned(*args: str) -> Plan:
    return make_plan(accepted(*args, STEPS, schema=PlanConfig))


@pytest.mark.parametrize(("convention", "wanted"), [("blocks", 0.15), ("total", 0.09)])
def test_the_design_saves_what_was_asked_for(folder: str, convention: str, wanted: float) -> None:
    plan = planned(f"prices={folder}", f"target_saving={wanted}", f"target_convention={convention}")
    saved = plan.ledger.saved_pct(convention) / 100
    assert wanted <= saved < wanted + 0.5 / 1000, "to the last step, by the ledger"
    assert plan.target is not None
    stage = plan.target.config.stage
    assert stage.rates is not None and stage.rates[0] == [*HEADS] and stage.rates[-1] == [1.0, 1.0, 1.0]
    assert stage.boundaries[0] == 400, "where the prices of the second moment begin"
    assert plan.prediction is not None
    heads, columns = plan.stages[0].steps, sum(one.steps for one in plan.stages[1:] if one.rates.p_m < 1)
    assert plan.prediction.lost.mean == pytest.approx(0.01 * heads + 0.02 * columns)
    assert plan.prediction.lost.error == pytest.approx(0.01 * (heads**2 + columns**2) ** 0.5)


def test_the_settings_typed_again_are_the_plan(folder: str) -> None:
    plan = planned(f"prices={folder}", "target_saving=0.15")
    assert plan.target is not None
    again = accepted(*plan.target.settings.split(), STEPS, schema=PlanConfig)
    ledger = planned_ledger_of(again, spec_of(hf_config(again.model)))
    assert ledger == plan.ledger and plan.target.request == "target_saving=0.15 (blocks) by prices"


def test_a_schedule_of_ones_own_is_predicted(folder: str) -> None:
    """800 steps of heads: 400 at each price; a step is worth GAIN at step 600, and 3/4 of it at step 800."""
    plan = planned(
        f"prices={folder}", "scheduler=n_stage", "stage.boundaries=[800]", f"stage.rates=[{[*HEADS]},[1,1,1]]"
    )
    found = plan.prediction
    assert found is not None and found.lost.mean == pytest.approx(400 * 0.01 + 400 * 0.2)
    assert found.loss.mean == pytest.approx(84 * GAIN * 600 / 800)
    assert found.gain.mean == pytest.approx(GAIN * 0.75)
    shorter = 1000 * plan.ledger.saved_pct("total") / 100 * GAIN * 0.75
    assert any(line.endswith(f"these FLOPs (total): {shorter:+.4f}") for line in notes(plan))


def test_shares_are_those_of_the_ledger(folder: str) -> None:
    config = accepted(STEPS, schema=PlanConfig)
    spec = spec_of(hf_config(config.model))
    prices, _, _ = read_prices(folder)
    shares = saved_shares(resolve(config), spec, prices, "total")
    for rates in prices.rates:
        stages = f"stage.rates=[[1,1,1],[{rates.p_h},{rates.p_m},{rates.p_l}]]"
        always = accepted(STEPS, "scheduler=n_stage", "stage.boundaries=[0]", stages)
        assert 100 * shares[rates] == pytest.approx(planned_ledger_of(always, spec).saved_pct("total"), rel=1e-12)
    assert SamplingRates(*ALL) in shares


def est_plan(*args: str) -> int:
    return enter("est-plan", main, ["est-plan", STEPS, *args])


def test_what_is_printed(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert est_plan(f"prices={folder}", "target_saving=0.15") == 0
    out = capsys.readouterr().out
    command = next(line for line in out.splitlines() if line.startswith("the run: est-train "))
    assert accepted(*shlex.split(command.removeprefix("the run: est-train "))).scheduler.name == "n_stage"
    assert f"expected by prices={folder} (steps 200, 600): " in out and "dense training with these FLOPs" in out


REFUSED: list[tuple[list[str], str]] = [
    (["target_saving=0.15", "model=llama_tiny"], "of a run with another model."),
    (["target_saving=0.15", "optim.lr=0.5"], "of a run with another optim.lr (0.001, here 0.5)"),
    (
        ["target_saving=0.15", "sampling.layers_by=sequence", "train.micro_batch=2"],
        "another sampling.layers_by (batch, here sequence); no prices can be taken of that; leave it so",
    ),
    (["target_saving=0.7"], "target_saving: 0.7 is out of reach; the rates in "),
    (["target_saving=0.15", "scheduler=raptr"], "scheduler.name: is what prices with target_saving find"),
    (["target_saving=0.15", "stage.t1=0.2"], "stage.t1: is what prices with target_saving find"),
    (
        ["target_saving=0.05", "train.micro_batch=[8,16,16]"],
        "target_saving: 2 stages are cheapest, and for them train.micro_batch",
    ),
    (["scheduler=raptr"], "which scheduler=raptr has"),
    ([], "no price was measured of steps at p_h=0.5 p_m=0.5 p_l=1, which scheduler=three_stage has"),
]


@pytest.mark.parametrize(("args", "told"), REFUSED)
def test_what_is_refused(folder: str, capsys: pytest.CaptureFixture[str], args: list[str], told: str) -> None:
    assert est_plan(f"prices={folder}", *args) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_prices_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prices: .*analysis\.json: No such file"):
        planned(f"prices={tmp_path}", "target_saving=0.15")
