import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from est_cli.reporting.compare_figures import NAMES, OTHERS, looks_of, loss_figure
from est_cli.reporting.drawing import DPI
from est_cli.reporting.groups import Group
from est_cli.reporting.runs import Axis
from tests.lab.made_runs import groups_in, make_run, make_seeds


def two_groups(root: Path) -> list[Group]:
    make_seeds(root, "three_stage", [0.3, 0.2, 0.4])
    make_seeds(root, "dense", [0.0, 0.1, 0.05])
    return list(groups_in(root).values())


def test_both_losses_of_both_groups(tmp_path: Path) -> None:
    figure = loss_figure(two_groups(tmp_path), Axis.seconds)
    assert figure is not None
    left, right = figure.axes
    assert left.get_ylabel().startswith("training loss") and right.get_ylabel().startswith("validation loss")
    curves = [line for line in right.lines if line.get_marker() != "None" and len(line.get_xdata()) == 10]
    assert [line.get_xdata()[-1] for line in curves] == pytest.approx([100, 75])
    assert [line.get_ydata()[-1] for line in curves] == pytest.approx([9.05, 9.3])
    assert len(right.collections) == 2, "a band each"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense (n=3)", "three_stage (n=3)"]


@pytest.mark.parametrize(
    ("axis", "end"), [(Axis.steps, 50), (Axis.tokens, 204800), (Axis.flops_total, 2000), (Axis.seconds, 25)]
)
def test_stages_are_shaded_and_transitions_marked(tmp_path: Path, axis: Axis, end: float) -> None:
    figure = loss_figure(two_groups(tmp_path), axis)
    assert figure is not None
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["stage 1", "stage 2"]
        upright = [line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[-1]]
        assert upright == pytest.approx([end])


def test_every_axis_is_drawn_as_long_as_it_is_known(tmp_path: Path) -> None:
    groups = two_groups(tmp_path)
    assert {axis for axis in NAMES if loss_figure(groups, axis)} == set(NAMES) - {Axis.flops_blocks}
    make_run(tmp_path / "other" / "a", summary={"flops_blocks": 5000})
    assert loss_figure(list(groups_in(tmp_path / "other").values()), Axis.flops_blocks) is not None


def test_groups_are_told_apart_with_and_without_colour(tmp_path: Path) -> None:
    for index in range(10):
        make_run(tmp_path / str(index), optim__lr=0.001 * (index + 1))
    make_run(tmp_path / "d", "dense")
    groups = list(groups_in(tmp_path).values())
    looks = list(looks_of(groups).values())
    told = looks[:8]
    for part in ("color", "line", "marker"):
        assert len({str(getattr(look, part)) for look in told}) == 8, part
    assert looks[8:] == [OTHERS] * 3
    figure = loss_figure(groups, Axis.steps)
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "3 more, see the table"


def test_several_schedules_get_a_strip_each(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", steps=60)
    make_run(tmp_path / "d", "dense")
    groups = list(groups_in(tmp_path).values())
    figure = loss_figure(groups, Axis.steps)
    assert figure is not None
    looks = looks_of(groups)
    above, curves = figure.axes[0], figure.axes[2]
    strips = [patch for patch in above.patches if isinstance(patch, Rectangle)]
    found = {to_hex(strip.get_facecolor()).upper(): [] for strip in strips}
    for strip in strips:
        found[to_hex(strip.get_facecolor()).upper()].append((strip.get_x(), strip.get_width(), strip.get_alpha()))
    assert found[looks["three_stage, steps=100"].color] == [(0, 50, 0.25), (50, 50, 1.0)]
    assert found[looks["three_stage, steps=60"].color] == [(0, 30, 0.25), (30, 30, 1.0)]
    assert len(found) == 2 and not curves.texts and above.get_xlim() == curves.get_xlim()


def test_odd_runs_are_drawn_without_warnings(tmp_path: Path) -> None:
    make_run(tmp_path / "begun", done=1)
    make_run(tmp_path / "nothing", done=0, steps=7)
    make_run(tmp_path / "$x_$<b>", tokenizer="$\\frac$ _")
    folder = make_run(tmp_path / "nan", optim__lr=5.0)
    (folder / "metrics.jsonl").write_text(
        (folder / "metrics.jsonl").read_text().replace('"loss": 10', '"loss": null, "x": 10')
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = list(groups_in(tmp_path).values())
        figure = loss_figure(groups, Axis.steps)
        assert figure is not None
        figure.savefig(tmp_path / "x.png", dpi=DPI)
        assert loss_figure([group for group in groups if "steps=7" in group.label], Axis.steps) is None


@pytest.mark.parametrize(("seconds", "unit", "ticks"), [(1, "s", "25"), (60, "min", "25"), (3600, "h", "25")])
def test_time_is_shown_in_a_fitting_unit(tmp_path: Path, seconds: int, unit: str, ticks: str) -> None:
    folder = make_run(tmp_path / "a", "dense")
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace('"step_s": 1.0', f'"step_s": {seconds}'))
    figure = loss_figure(list(groups_in(tmp_path).values()), Axis.seconds)
    assert figure is not None
    axes = figure.axes[1]
    figure.draw_without_rendering()
    assert axes.get_xlabel().endswith(f"({unit})")
    assert axes.get_xticklabels()[1].get_text() == ticks
    assert np.isclose(axes.get_xticks()[1], 25 * seconds)
