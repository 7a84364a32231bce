"""S: summaries, metrics, settings and results of runs that others made, read by est-report and est-eval: data only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from est_cli import report
from est_cli.common.errors import DataError
from est_cli.evaluation.results import ZERO_SHOT, keep_zero_shot
from est_cli.reporting.claim import claims_of
from est_cli.reporting.groups import group_runs
from est_cli.reporting.numbers import all_numbers
from est_cli.reporting.page import page
from est_cli.reporting.runs import read_run
from tests.faults.conftest import Tally
from tests.faults.refused import told_as, told_by_door, unchanged
from tests.faults.size import either
from tests.lab.made_runs import make_run

pytestmark = pytest.mark.row("S")

HUGE = 10**200
SUMMARY: dict[str, list[Any]] = {
    "final_val_loss": ["<script>", True, [], {}, HUGE, -1e308],
    "flops_saved_pct_blocks": ["1", 100, [3]],
    "time_saved_pct": [{}, "much"],
    "flops_blocks": ["1", HUGE],
    "flops_dense": ["1"],
    "steps": ["100", [1]],
    "versions": ["text", [1], 3],
    "git_commit": [{}, ["a"], 3],
    "hardware": [[], 1],
    "data_hash": [{}, 3],
}
RECORD: dict[str, list[Any]] = {
    "loss": [True, float("nan"), float("-inf"), "low", [], HUGE],
    "flops": [0, -1, "1", HUGE],
    "step_s": [0.0, -1.0, None],
    "flops_saved_pct_blocks": [100, 1e6, {}],
    "stage": [[], "1", None],
    "step": [HUGE, True],
}
"""Of the first step in metrics.jsonl, which Python reads with NaN and infinity."""
CASES = [(file, key, value) for file, values in (("summary.json", SUMMARY), ("metrics.jsonl", RECORD))
         for key, of in values.items() for value in of]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made") / "run", steps=8)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def put(path: Path, key: str, value: Any) -> None:
    """Change the file's first object."""
    first, end, rest = path.read_text().partition("\n")
    path.write_text(json.dumps({**json.loads(first), key: value}) + end + rest)


@pytest.mark.parametrize(("file", "key", "value"), either(CASES, CASES[::4]), ids=lambda value: str(value)[:20])
def test_values_that_no_run_has(
    run: Path, capfd: pytest.CaptureFixture[str], tally: Tally, file: str, key: str, value: Any
) -> None:
    put(run / file, key, value)
    with unchanged(run.parent):
        line = told_by_door(capfd, "est-report", report.main, [str(run), f"--out={run.parent / 'page'}"], 6)
    assert line.startswith(f"{run / file}: ") and f"`{key}`" in line
    tally(inputs=1)


@pytest.mark.parametrize("settings", ["max_steps: 0", "max_steps: -8", "tokens_per_step: 0"])
def test_settings_of_no_run(run: Path, capfd: pytest.CaptureFixture[str], tally: Tally, settings: str) -> None:
    config, key = run / "config.yaml", settings.partition(":")[0]
    (old,) = (line for line in config.read_text().splitlines() if line.startswith(f"  {key}:"))
    config.write_text(config.read_text().replace(old, f"  {settings}"))
    with unchanged(run.parent):
        line = told_by_door(capfd, "est-report", report.main, [str(run), f"--out={run.parent / 'page'}"], 4)
    assert line.startswith(f"{config}: ")
    tally(inputs=1)


STATES = ({"flops_blocks": "1"}, {"data_hash": {}}, {"step": "8"}, {"step": True}, {"versions": [1]}, {"hardware": 3})


def test_what_is_odd_or_missing_elsewhere_is_as_not_there(run: Path, tally: Tally) -> None:
    """The state of a checkpoint, of which a report needs nothing, and a summary that says less."""
    folder = run / "checkpoints" / "step-000008"
    folder.mkdir(parents=True)
    (run / "summary.json").write_text('{"flops_blocks": null, "versions": null}')
    for odd in STATES:
        (folder / "state.json").write_text(json.dumps({"step": 8, "flops_blocks": 100, **odd}))
        found = read_run(run)
        assert found.state == {}
        groups = group_runs([found])
        numbers = all_numbers("<b>", "today", groups, claims_of(groups), [])
        assert "<b>" not in page(numbers, [], []) and json.dumps(numbers, allow_nan=False)
        tally(inputs=1)


@pytest.mark.parametrize("records", [3, "abc", [3], [{}], [None], [{"checkpoint": 1, "task": 2}], [["checkpoint"]]])
def test_results_of_somebody_else(tmp_path: Path, tally: Tally, records: Any) -> None:
    (tmp_path / ZERO_SHOT).write_text(json.dumps({"records": records}))
    new = {"checkpoint": "a", "task": "perplexity", "settings_digest": "b"}
    with unchanged(tmp_path):
        told_as(DataError, lambda: keep_zero_shot(tmp_path, new))
    tally(inputs=1)
