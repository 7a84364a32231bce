"""What is inside of a run, as the page shows it, and what lies beside it; files that nobody of ours wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from est_cli.reporting.beside import analysis_rows, forget_analyses
from est_cli.reporting.curves import page_curves, thinned
from est_cli.reporting.inside import MAX_RUNS, inside, insides
from est_cli.reporting.report import make_report
from est_cli.reporting.runs import read_run
from tests.lab.made_runs import groups_in, make_run, make_seeds
from tests.reporting.test_layers import record as layers_record

COVERAGE = {"layers": [1.0, 0.5], "heads": {"min": 0.25, "mean": 0.75, "max": 1.0}, "columns": {}}


def full_run(folder: Path) -> Path:
    make_run(folder, summary={"coverage": COVERAGE, "diagnoses": ["look here", 3]})
    (folder / "layers.jsonl").write_text("".join(json.dumps(layers_record(step)) + "\n" for step in (10, 20)))
    with (folder / "metrics.jsonl").open("a") as file:
        for step in (10, 20):
            file.write(json.dumps({"step": step, "val_loss": 9.0, "draw_spread": 0.1, "draw_range": step / 100}) + "\n")
            file.write(json.dumps({"event": "sample", "step": step, "prompt": "p", "text": f"text at {step}"}) + "\n")
    zero_shot = {"checkpoint": "x@1", "task": "perplexity", "settings_digest": "d", "perplexity": 9.5}
    (folder / "zero_shot.json").write_text(json.dumps({"records": [zero_shot]}))
    scores = [{"task": "sst2", "checkpoint": "x@1", "settings_digest": "d", "score": score} for score in (0.5, 0.75)]
    (folder / "results.json").write_text(json.dumps({"records": [*scores, 7, {"score": "no"}]}))
    return folder


def analysis(root: Path, name: str, checkpoint: Any, result: Any) -> None:
    (root / name).mkdir()
    (root / name / "analysis.json").write_text(json.dumps({"settings": {"checkpoint": checkpoint}, "result": result}))
    forget_analyses()


def test_all_parts_of_a_run(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "a")
    analysis(
        tmp_path, "analyze-a", "outputs/a/checkpoints/step-000010", {"loss": 9.25, "places": [-1, 1], "mean": [9, 8]}
    )
    analysis(tmp_path, "analyze-b", "outputs/b/model", {"loss": 1.0})
    found = inside(read_run(folder))
    tables = {title: (headings, rows) for title, headings, rows in found["tables"]}
    assert list(tables) == ["Stages", "Transitions", "Share of the steps trained", "Scores", "Analysis: analyze-a"]
    assert [row[:5] for row in tables["Stages"][1]] == [["1", "0.5", "0.5", "0.5", "50"], ["2", "1", "1", "1", "50"]]
    assert tables["Transitions"][1][0][:2] == ["51", "1 to 2"]
    assert ["layer 1", "0.500", "", ""] in tables["Share of the steps trained"][1]
    assert ["all heads", "0.750", "0.250", "1.000"] in tables["Share of the steps trained"][1]
    assert [row[:3] for row in tables["Scores"][1]] == [
        ["sst2", "score", "0.6250 ± 0.1768"], ["perplexity", "perplexity", "9.5000"]
    ]  # fmt: skip
    assert tables["Analysis: analyze-a"][1] == [["loss", "9.25"]]
    assert found["diagnoses"] == ["look here"] and found["samples"] == [(20, "text at 20"), (10, "text at 10")]
    draws, flatness = found["lines"]
    assert (draws["x"], draws["series"][1]["y"]) == ([10, 20], [0.1, 0.2]) and flatness["series"][0]["y"] == [9, 8]
    assert found["grids"][0]["title"] == "gradient norm" and found["grids"][0]["steps"] == [10, 20]
    assert found["grids"][0]["values"][0] == [5.0, 5.0] and found["grids"][0]["values"][1] == [None, None]


@pytest.mark.parametrize(
    "content", ["[1]", "{", '{"records": 3}', '{"records": {"a": 1}}', '{"result": [[[]]]}', "null"]
)
def test_files_of_somebody_else_are_passed_over(tmp_path: Path, content: str) -> None:
    folder = make_run(tmp_path / "a")
    (tmp_path / "analyze-a").mkdir()
    for path in (folder / "results.json", folder / "zero_shot.json", tmp_path / "analyze-a" / "analysis.json"):
        path.write_text(content)
    forget_analyses()
    assert [title for title, _, _ in inside(read_run(folder))["tables"]] == ["Stages", "Transitions"]


ODD: list[dict[str, Any]] = [
    {"coverage": 3}, {"coverage": {"layers": "x", "heads": [1]}}, {"coverage": {"layers": [None, "x", 1e300]}},
    {"diagnoses": {"a": 1}}, {"diagnoses": [None, ["x"]]}, {"diagnoses": ["<b>" * 10_000] * 10},
]  # fmt: skip


@pytest.mark.some(2)
@pytest.mark.parametrize("summary", ODD, ids=lambda value: str(value)[:30])
def test_odd_summaries_are_shown_as_far_as_they_can_be(tmp_path: Path, summary: dict[str, Any]) -> None:
    folder = make_run(tmp_path / "runs" / "a", summary=summary)
    with (folder / "metrics.jsonl").open("a") as file:
        for event in ({"from_stage": "<b>", "to_stage": {}, "step": 60}, {"event": "sample", "step": 3, "text": 5}):
            file.write(json.dumps({"event": "stage_transition"} | event) + "\n")
    made = make_report([tmp_path / "runs"], tmp_path / "out", "x")
    assert "<b>" not in made.page.read_text() and len(made.page.read_text()) < 1_000_000


def test_an_analysis_is_bounded() -> None:
    deep: Any = 1.0
    for _ in range(500):
        deep = {"x": deep, "y": 2.0}
    assert len(analysis_rows(deep)) == 6 and len(analysis_rows({str(n): n for n in range(1000)})) == 60


def test_of_each_group_a_run_comes_first(tmp_path: Path) -> None:
    make_seeds(tmp_path, "dense", [0.0] * (MAX_RUNS - 1), steps=10)
    make_run(tmp_path / "z", steps=10)
    make_run(tmp_path / "zz", seed=1, steps=10)
    found = insides(list(groups_in(tmp_path).values()))
    assert len(found) == MAX_RUNS and found[1]["name"] == str(tmp_path / "z")


def test_a_spike_of_one_step_survives_thinning(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", steps=6000)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace(f'"loss": {10.5 - 0.01 * 4321}', '"loss": 99.0'))
    (group,) = page_curves(list(groups_in(tmp_path).values()))["groups"]
    logged = group["curves"]["logged"]
    assert len(logged["y"]) <= 2002 and max(logged["y"]) == 99.0
    assert logged["x"]["steps"][logged["y"].index(99.0)] == 4321
    assert logged["x"]["steps"][0] == 1 and logged["x"]["steps"][-1] == 6000
    assert logged["x"]["flops_total"][-1] == 40 * 3000 + 100 * 3000


def test_short_curves_are_whole() -> None:
    assert list(thinned(np.arange(5.0), 5)) == [0, 1, 2, 3, 4]
