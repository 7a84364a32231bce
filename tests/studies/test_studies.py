"""The studies of docs/results/: their runs are as long as they say, their pages say what the files hold."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import claim
import pytest
import study
import study_page
import twins
from study import Cell, cells_of, overrides_of

from est_cli.config import PlanConfig
from est_cli.config.compose import composed
from est_cli.planning import Plan, make_plan
from studies import STUDIES

pytestmark = pytest.mark.slow

COLUMNS = ["arm", "n", "steps", "final validation loss", "minus dense", "saved blocks", "saved total", "time saved"]


def planned(letter: str, size: str, arm: str) -> Plan:
    return make_plan(composed("plan", PlanConfig, overrides_of(Cell(letter, size, arm, 0)), None)[0])


def test_every_run_has_a_name_of_its_own() -> None:
    names = [cell.name for letter in STUDIES for cell in cells_of(letter)]
    assert len(set(names)) == len(names)


@pytest.mark.some(1)
@pytest.mark.parametrize(("letter", "size"), [("a", "m"), ("i", "s")])
def test_a_dense_run_of_equal_flops_uses_as_many(letter: str, size: str) -> None:
    est, dense = (planned(letter, size, arm).ledger.used.total for arm in ("three_stage", "dense, equal FLOPs"))
    assert dense == pytest.approx(est, rel=1e-3)


@pytest.mark.parametrize("arm", ["three_stage, ends kept", "gradual_stacking"])
def test_a_candidate_saves_more_than_the_paper(arm: str) -> None:
    assert planned("h", "s", arm).ledger.saved_pct("blocks") > 26.7


def finished(folder: Path, losses: dict[str, tuple[float, ...]]) -> None:
    """Result files of study a as `study.run` writes them, with these losses by arm and seed."""
    for arm, by_seed in losses.items():
        for seed, loss in enumerate(by_seed):
            cell = Cell("a", "s", arm, seed)
            summary = dict.fromkeys(study.KEPT) | {"steps": 10, "tokens": 1000, "final_val_loss": loss}
            summary |= {
                "flops_saved_pct_blocks": 25.0,
                "flops_saved_pct_total": 20.0,
                "hardware": "x",
                "git_commit": "c",
            }
            told = {"study": "a", "size": "s", "arm": arm, "seed": seed, "overrides": [], "validation": []}
            file = folder / "a" / f"{cell.name}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({**told, "summary": {**summary, "versions": {"torch": "t"}}}))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (study, study_page, twins):
        monkeypatch.setattr(module, "DATA", tmp_path)
    return tmp_path


def test_a_page_shows_means_spreads_and_paired_differences(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(data, {"dense": (4.0, 4.2), "three_stage": (4.5, 4.9)})
    (data / "a.md").write_text("A gap of {diff three_stage - dense @ s}, a loss of {loss dense @ s}.")
    monkeypatch.setattr(study_page, "READINGS", data)
    lines = study_page.page("a").splitlines()
    (header,) = (line for line in lines if line.startswith("| arm "))
    (row,) = (line for line in lines if line.startswith("| three_stage "))
    shown = dict(zip(COLUMNS, row.strip("| ").split(" | "), strict=False))
    assert header.strip("| ").split(" | ") == COLUMNS
    assert (shown["n"], shown["final validation loss"]) == ("2", "4.7000 +- 0.2828")
    assert shown["minus dense"].startswith("+0.6000 (") and shown["saved blocks"] == "25.00 %"
    assert f"A gap of {shown['minus dense']}, a loss of 4.1000." in lines


def test_a_run_is_not_made_twice(data: Path) -> None:
    finished(data, {"dense": (4.0,)})
    file = next((data / "a").iterdir())
    cell = json.loads(file.read_text())
    file.write_text(json.dumps({**cell, "overrides": overrides_of(Cell("b", "s", "dense", 0))}))
    study.run(Cell("b", "s", "dense", 0), "no corpus")
    assert json.loads((data / "b" / "b-s-dense-0.json").read_text())["summary"]["final_val_loss"] == 4.0


def test_twins_are_compared_pair_by_pair(data: Path) -> None:
    traces = {"dense": (10.0, 20.0), "three_stage": (5.0, 8.0, 1.0), twins.SHORT: (4.0, 4.0)}
    for arm, means in traces.items():
        for seed, mean in enumerate(means):
            file = twins.result_file("trace", "s", arm, seed)
            file.parent.mkdir(exist_ok=True)
            told = {"mean": mean}
            groups = dict.fromkeys(twins.GROUPS, told)
            file.write_text(json.dumps({"trace": told, "without_embeddings": told, "groups": groups, "loss": mean}))
    (row,) = (line for line in twins.page().splitlines() if line.startswith("| all "))
    assert f"{fmean((10, 20)):g}" in row and "| -8.5 (" in row and "-56.7 % | +2.5 (" in row


def test_a_card_of_runs_that_are_not_here_says_how_to_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        claim.main(["s"])
    assert ended.value.code == 2
    assert "study.py a trains again what has no file in docs/results/data/a" in capsys.readouterr().err
