"""The pictures of a run's stages say what the numbers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from est_cli.est.coverage import Coverage
from est_cli.reporting.figures import MAX_PANELS, coverage_figure, plot_stages, transitions_figure

TRAIN = [{"step": step, "loss": 9 - step / 50, "stage": 1 + step // 101} for step in range(1, 201)]


def change(step: int = 101, recovered: int | None = 0) -> dict[str, Any]:
    told = {"step": step, "from_stage": 1, "to_stage": 2, "steps_to_recover": recovered}
    return {**told, "mean_before": 7.06, "mean_after": None}


def covered(columns: int = 6) -> Coverage:
    layers = torch.tensor([0.5, 1.0], dtype=torch.float64)
    return Coverage(layers, layers.unsqueeze(1).repeat(1, 3), layers.unsqueeze(1).repeat(1, columns))


@pytest.mark.parametrize(
    ("recovered", "said"), [(0, "no rise"), (None, "never back"), (1200, "back after 1,200 steps")]
)
def test_a_panel_shows_the_loss_around_its_transition(recovered: int | None, said: str) -> None:
    figure = transitions_figure(TRAIN, [change(recovered=recovered)])
    [axes] = figure.axes
    assert axes.get_title() == f"1 to 2 at step 101: {said}"
    curve, boundary, mean = axes.lines
    steps, losses = curve.get_xdata(), curve.get_ydata()
    assert min(steps) <= 76 and max(steps) >= 125 and losses[0] == pytest.approx(9 - steps[0] / 50)
    assert boundary.get_xdata()[0] == 100.5 and mean.get_ydata()[0] == 7.06


def test_of_many_transitions_the_first_and_the_last_are_shown() -> None:
    figure = transitions_figure(TRAIN, [change(step) for step in range(10, 190, 10)])
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == MAX_PANELS and "step 10:" in titles[0] and "step 180:" in titles[-1]


def test_coverage_is_drawn_as_it_is() -> None:
    panels = {axes.get_title().partition(" ")[0]: axes for axes in coverage_figure(covered()).axes}
    layers, heads = panels["layers"], panels["heads"]
    assert [bar.get_width() for bar in layers.patches] == [0.5, 1.0]
    assert heads.images[0].get_array().tolist() == [[0.5] * 3, [1.0] * 3]
    assert "columns" in panels


def test_a_model_without_an_mlp_has_no_panel_for_columns() -> None:
    assert not any("columns" in axes.get_title() for axes in coverage_figure(covered(0)).axes)


def test_files_of_a_run_with_and_without_transitions(tmp_path: Path) -> None:
    plot_stages(TRAIN, [], covered(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"coverage.png"}
    plot_stages(TRAIN, [change()], covered(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"coverage.png", "transitions.png"}
