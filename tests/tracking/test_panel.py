"""The panel of a running training at every width: what it shows is whole."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from est_cli.tracking.eta import StagePlan
from est_cli.tracking.panel import BARS, CURVE_IN_LINE, ECHO, Curve, TrainingView, binned, sparkline, stage_bar

STAGES = [StagePlan(1, 20, 1.0), StagePlan(2, 50, 1.0), StagePlan(3, 100, 1.0)]


def view(steps: int = 66) -> TrainingView:
    made = TrainingView(STAGES, 100, steps, 3, 6.3523, 40.5, 26.8, 9102.0, 0.81, "00:20")
    for step in range(steps):
        made.curve.add(9.0 - step / 100)
    return made


def shown(made: TrainingView, width: int, height: int = 24, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    out.reconfigure(errors="replace")
    Console(file=out, force_terminal=True, width=width, height=height, color_system=None).print(made)
    out.seek(0)
    return out.read()


def test_eighty_columns_get_one_line_of_whole_numbers() -> None:
    text = shown(view(), 80)
    assert text.startswith("step 66/100  stage 3/3  loss 6.3523  saved 40.5 %  left 00:20  █")
    assert text.count("\n") == 1 and len(text) <= 78  # and ^C has room


@pytest.mark.parametrize("width", range(14, 100, 3))
def test_a_narrow_line_leaves_out_what_matters_least(width: int) -> None:
    text = shown(view(), width).rstrip("\n")
    parts = ["step 66/100", "stage 3/3", "loss 6.3523", "saved 40.5 %", "(end 26.8 %)", "9,102 tok/s", "0.81 GB",
             "left 00:20", sparkline(view().curve.means, CURVE_IN_LINE)]  # fmt: skip
    assert len(text) <= width - ECHO and text.split("  ") == [part for part in parts if part in text]
    assert ("loss" in text) == (width >= 24 + ECHO) and ("left" in text) == (width >= 36 + ECHO)


@pytest.mark.parametrize("width", [100, 120, 160])
def test_wider_terminals_get_the_panel(width: int) -> None:
    lines = shown(view(), width).splitlines()
    assert len(lines) == 5 and {len(line) for line in lines} == {width - ECHO}
    text = "\n".join(lines)
    for part in ("loss 6.3523", "stage 3/3", "step 66 of 100", "left 00:20", "9,102 tok/s", "0.81 GB",
                 "saved 40.5 % so far, 26.8 % at the end"):  # fmt: skip
        assert part in text
    assert "…" not in text


def test_a_low_terminal_gets_the_line() -> None:
    assert shown(view(), 120, height=8).count("\n") == 1


def test_before_the_first_step_there_is_no_loss() -> None:
    assert shown(TrainingView(STAGES, 100, 0), 80) == "step 0/100  the first one takes longest\n"


def test_ascii_has_a_panel_too() -> None:
    assert shown(view(), 120, encoding="ascii").startswith("+---")


def test_the_curve_is_short_and_goes_from_the_first_to_the_last_step() -> None:
    curve = Curve(most=8)
    for step in range(1000):
        curve.add(float(step))
    curve.add(math.nan)
    assert len(curve.means) <= 8 and curve.means == sorted(curve.means)
    assert curve.means[0] == pytest.approx(63.5)  # the mean of steps 0 to 127
    assert 800 < curve.means[-1] < 1000


def test_bins_are_means_of_all_values() -> None:
    values = [float(number) for number in range(10)]
    assert binned(values, 5) == [0.5, 2.5, 4.5, 6.5, 8.5] and binned(values, 20) == values
    assert sum(binned(values, 3)[number] * size for number, size in enumerate((3, 3, 4))) == sum(values)


def test_bars_from_low_to_high() -> None:
    assert sparkline([0.0, 3.5, 7.0], 10) == BARS[0] + BARS[4] + BARS[7]
    assert sparkline([2.0, 2.0], 10) == BARS[0] * 2 and sparkline([], 10) == ""


def test_the_stages_have_their_places() -> None:
    bar = stage_bar(STAGES, 66, 50)
    assert bar.plain == "━" * 10 + "┃" + "━" * 14 + "┃" + "━" * 7 + "─" * 17
    assert stage_bar(STAGES, 100, 50).plain.count("─") == 0
