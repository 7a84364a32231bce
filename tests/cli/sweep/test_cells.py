"""Jobs that differ by their seed: means and spread of each cell, the best marked; and sweeps that begin nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from rich.console import Console

from est_cli.cli.sweep import command
from est_cli.cli.sweep.run_job import JobExit
from est_cli.cli.sweep.trainings import TRAININGS
from est_cli.common.errors import ConfigError
from tests.lab.sweep_lab import Lab, column, results

GRID = ("stage.t1=0.1,0.2", "seed=0,1,2")
LOSSES = {"0.1": [3.0, 3.6, 3.9], "0.2": [3.3, 3.35, 3.4]}
"""The luckiest seed is of the first cell, the best mean of the second."""


@pytest.fixture
def graded(lab: Lab) -> Lab:
    for t1, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            lab.reached[f"t1={t1},seed={seed}"] = {"final_val_loss": loss, "perplexity": 10 * loss}
    return lab


def table_of_cells(out: str) -> list[list[str]]:
    lines = out[out.index("Over seeds") :].splitlines()
    return [line.split() for line in lines[2:4]]


def test_the_best_cell_is_marked_and_not_the_luckiest_seed(graded: Lab) -> None:
    result = graded.sweep(*GRID)
    assert result.code == 0, result.err
    first, second = table_of_cells(result.out)
    assert first[:4] == ["0.1", "3", "300", f"{mean(LOSSES['0.1']):.4f}"]
    assert second[:2] == ["0.2", "3"]
    assert second[3:6] == [f"*{mean(LOSSES['0.2']):.4f}", "±", f"{stdev(LOSSES['0.2']):.4f}"]
    assert "mean ± standard deviation (n - 1) over seeds; *: the best mean" in result.out
    single, _, _ = result.out.partition("Over seeds")
    assert "*" not in single and "3.0000" in single  # each job has its row, the luckiest no mark


def test_the_files_hold_the_cells_beside_the_jobs(graded: Lab) -> None:
    graded.sweep(*GRID)
    sweep = graded.only_sweep()
    rows = results(sweep)
    assert column(rows, "best") == ["", "", "", "*", "*", "*"] and column(rows, "seeds_done") == ["3"] * 6
    assert float(rows[0]["final_val_loss_mean"]) == pytest.approx(mean(LOSSES["0.1"]))
    assert float(rows[5]["final_val_loss_sd"]) == pytest.approx(stdev(LOSSES["0.2"]))
    cells: list[dict[str, Any]] = json.loads((sweep / "results.json").read_text())["cells"]
    assert [cell["swept"] for cell in cells] == [{"stage.t1": "0.1"}, {"stage.t1": "0.2"}]
    assert [(cell["best"], cell["jobs"], cell["done"]) for cell in cells] == [(False, 3, 3), (True, 3, 3)]
    assert cells[1]["numbers"]["final_val_loss"]["n"] == 3


def test_a_cell_with_fewer_seeds_is_not_the_best(graded: Lab) -> None:
    graded.ends["t1=0.1,seed=1"] = graded.ends["t1=0.1,seed=2"] = JobExit(9, "out of memory")
    result = graded.sweep(*GRID)  # what is left of the first cell is 3.0
    first, second = table_of_cells(result.out)
    assert first[:6] == ["0.1", "1", "of", "3", "300", "3.0000"] and "*3.3500" in second


WIDE = ("stage.t1=0.1,0.2", "stage.p_h=0.5,0.75", "stage.p_m=0.5,0.75", "optim.lr=0.001,0.002", "seed=0,1")


class Everywhere(dict[str, dict[str, Any]]):
    """What every job has reached, the first values the least loss."""

    def get(self, name: str, default: Any = None) -> dict[str, Any]:
        saved = {"flops_saved_pct_blocks": 26.67, "flops_saved_pct_total": 17.8, "time_saved_pct": 20.0}
        first = "t1=0.1" in name and name.count("0.5") == 2 and "lr=0.001" in name
        return {"final_val_loss": 3.1 if first else 3.2, "perplexity": 21.5, "time_s": 12.0, **saved}


@pytest.mark.parametrize(("width", "left_out"), [(200, ""), (100, "folder"), (80, "folder, time s, perplexity, steps")])
def test_what_a_narrow_terminal_has_no_room_for_is_left_out_and_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, width: int, left_out: str
) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr("est_cli.cli.sweep.results.table_console", lambda: console)
    lab.reached = Everywhere()
    assert lab.sweep(*WIDE).code == 0
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    told = [line for line in lines if line.startswith("left out for room: ")]
    assert bool(told) == bool(left_out) and all(left_out in line for line in told)
    assert any("results.csv" in line for line in lines) == bool(left_out)
    cells = lines[next(number for number, line in enumerate(lines) if "Over seeds" in line) :]
    (best,) = [line for line in cells if "*3.1000" in line]
    assert best.split()[:4] == ["0.001", "0.5", "0.5", "0.1"] and "26.67" in best, "the best cell stands on a line"
    assert sum("3.2000" in line and "26.67" in line for line in cells) == 15


def test_what_is_kept_longest_is_among_the_columns() -> None:
    assert {*TRAININGS.telling, TRAININGS.objective} <= {column.key for column in TRAININGS.columns([])}


@pytest.mark.parametrize("args", [["stage.t1=0.1,0.2"], ["stage.t1=0.1,0.2", "seed=4"]])
def test_without_several_seeds_there_are_no_cells(graded: Lab, args: Sequence[str]) -> None:
    result = graded.sweep(*args)
    assert "Over seeds" not in result.out and "*3.1000" in result.out
    tree = json.loads((graded.only_sweep() / "results.json").read_text())
    assert "cells" not in tree and "seeds_done" not in tree["jobs"][0]


def refused(*_: object) -> None:
    raise ConfigError("hydra/launcher=submitit_slurm: no scheduler on this machine")


def test_a_sweep_that_begins_nothing_leaves_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "perform_all", refused)
    result = lab.sweep("seed=0,1")
    assert result.code == 2 and result.last.endswith("no scheduler on this machine")
    assert [*lab.folder.iterdir()] == [] and result.out == ""


def test_what_was_there_before_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.sweep("seed=0,1", "sweep=s").code == 0
    (lab.folder / "outputs" / "empty").mkdir()
    monkeypatch.setattr(command, "perform_all", refused)
    assert lab.sweep("seed=0,1,2", "sweep=s").code == 2
    assert lab.sweep("seed=0,1", "sweep=empty").code == 2
    assert sorted(path.name for path in Path(lab.folder, "outputs").iterdir()) == ["empty", "s"]
    assert (lab.folder / "outputs" / "s" / "seed=0" / "summary.json").exists()
