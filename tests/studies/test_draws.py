"""studies/draws.py: what is kept of a run, and what its page makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import draws
import draws_page
import pytest
import yaml

from tests.lab.fake_run import fake_metrics


def finished(folder: Path, scheduler: str, loss: float, spreads: dict[int, float]) -> Path:
    """The folder of a run that ended with this loss, with the spread of its draws at these steps."""
    metrics = fake_metrics()
    for record in metrics:
        if "val_loss" in record and record["step"] in spreads:
            spread = spreads[record["step"]]
            record |= {"draw_spread": spread, "draw_range": 3 * spread}
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics))
    summary: dict[str, Any] = dict.fromkeys(draws.KEPT) | {"steps": 300, "final_val_loss": loss}
    summary |= {"git_commit": "c" * 40, "hardware": "x", "versions": {"torch": "t"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    config = {
        "scheduler": {"name": scheduler},
        "seed": 0,
        "optim": {"lr": 0.003},
        "model": {"hidden_size": 64, "num_heads": 4},
        "train": {"spread_draws": 8, "spread_tokens": 256},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(draws_page, "DATA", tmp_path / "data")
    (tmp_path / "draws.md").write_text("A reading.")
    monkeypatch.setattr(draws_page, "READING", tmp_path / "draws.md")
    return tmp_path


def test_a_page_tells_spreads_by_stage_and_the_gap_to_the_dense_twin(data: Path) -> None:
    spreads = {20: 0.5, 40: 0.1, 60: 0.2, 80: 0.03, 140: 0.01}  # stage 1 ends after step 75, stage 2 after 150
    runs = [finished(data / "est", "three_stage", 4.5, spreads), finished(data / "dense", "dense", 4.2, {})]
    unfinished = data / "unfinished"
    unfinished.mkdir()
    draws.take([*runs, unfinished])
    assert sorted(path.stem for path in (data / "data").iterdir()) == ["dense", "est"]
    (row,) = (line for line in draws_page.page().splitlines() if line.startswith("| three_stage "))
    cells = dict(zip(draws_page.HEADINGS, row.strip("| ").split(" | "), strict=True))
    assert cells["median spread by stage"] == "1: 0.2000, 2: 0.0200"
    assert cells["largest spread"] == "0.5000 (step 20)"
    assert cells["final loss minus dense"] == "+0.3000"


def test_draws_that_cannot_differ_do_not_count(data: Path) -> None:
    """RaPTr's first stage has one subnetwork."""
    run = draws.kept(finished(data / "est", "raptr", 4.5, {20: 0.0, 100: 0.2}))
    assert draws_page.spread_by_stage(run) == {2: 0.2}


def test_a_gap_needs_a_dense_run_of_the_same_shape(data: Path) -> None:
    est = draws.kept(finished(data / "est", "three_stage", 4.5, {20: 0.1}))
    dense = draws.kept(finished(data / "dense", "dense", 4.2, {}))
    assert draws_page.gap(est, [est, dense | {"heads": 8}]) is None


def test_what_is_kept_is_not_taken_for_a_cell_of_a_study(data: Path) -> None:
    """studies/study.py looks for overrides in all files of docs/results/data/."""
    assert "overrides" not in draws.kept(finished(data / "est", "three_stage", 4.5, {20: 0.1}))
