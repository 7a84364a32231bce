"""The layers' health as a report has it: refused where no run wrote it, drawn where it was measured."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from est_cli.common.errors import StorageError
from est_cli.reporting.layers import layers_figure, read_layers
from est_cli.reporting.report import make_report
from tests.lab.made_runs import make_run


def record(step: int, scale: float = 1.0) -> dict[str, Any]:
    """Three layers, of which the second did not run, and no MLP columns."""
    norms = {f"{name}_{kind}": [3.0 * scale, 3.0, 3.0] for name in ("grad_norm", "update_norm", "weight_norm")
             for kind in ("heads", "rest")}  # fmt: skip
    norms |= {"grad_norm_heads": [4.0, None, 4.0], "grad_norm_rest": [3.0, None, 3.0]}
    return {"step": step, **norms, "activation_rms": [1.0, None, 2.0], "trained_layers": [1.0, 0.0, 0.5]}


def written(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "layers.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_pictures_show_norms_over_all_kinds(tmp_path: Path) -> None:
    records = read_layers(written(tmp_path, record(100), record(200)))
    figure = layers_figure(records, "a run")
    grids = [axes.collections[0].get_array() for axes in figure.axes[:4]]
    for grid, expected in zip(grids, ([5.0, np.nan, 5.0], [1.0] * 3, [1.0, np.nan, 2.0], [1.0, 0.0, 0.5]), strict=True):
        found = np.ma.filled(np.ma.asarray(grid, dtype=float), np.nan).reshape(3, 2)
        np.testing.assert_allclose(found, np.array([expected, expected]).T)


@pytest.mark.parametrize("records", [[record(7)], [record(1) | {"activation_rms": [None] * 3}], [record(1, 0.0)] * 3])
def test_odd_records_are_drawn_without_warnings(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers_figure(read_layers(written(tmp_path, *records)), "odd").canvas.draw()


@pytest.mark.parametrize(
    "change",
    [
        {"activation_rms": [1.0, 2.0]},
        {"activation_rms": []},
        {"activation_rms": "abc"},
        {"trained_layers": None},
        {"grad_norm_heads": [1.0, "x", 1.0]},
        {"grad_norm_rest": [1.0, 1e200, 1.0]},
        {"weight_norm_rest": [1.0, -1.0, 1.0]},
        {"update_norm_heads": [1.0, True, 1.0]},
        {"update_norm_heads": None},
        {"step": -5},
    ],
)
def test_what_no_run_writes_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = written(tmp_path, record(100), record(200) | change)
    with pytest.raises(StorageError, match=r"layers\.jsonl: the record of step "):
        read_layers(path)


@pytest.mark.slow
def test_a_report_shows_a_run_of_each_group(tmp_path: Path) -> None:
    for seed in (0, 1):
        written(make_run(tmp_path / "runs" / f"est-{seed}", seed=seed), record(50), record(100))
    make_run(tmp_path / "runs/dense", scheduler="dense")
    report = make_report([tmp_path / "runs"], tmp_path / "out", "a title")
    assert [path.name for path in report.page.parent.glob("layers-*.png")] == ["layers-1.png"]
    assert "health in" in report.page.read_text()
