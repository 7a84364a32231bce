"""Tables on narrow terminals: whatever is wide, no number is cut."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from est_cli.common.table import print_whole, table

NUMBERS = ["4.832e+10", "1,638,400", "26.67 %"]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
@pytest.mark.parametrize("fold", [None, (), ("plan",)])
def test_numbers_are_whole_at_every_width(width: int, fold: tuple[str, ...] | None) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    rows = [["a plan with a long name " * 3, *NUMBERS]]
    print_whole(
        console, table(["plan", "FLOPs", "tokens", "saved"], rows, words=["plan"], fold=fold, total=["all", *NUMBERS])
    )
    shown = out.getvalue()
    assert all(shown.count(number) == 2 for number in NUMBERS) and "\u2026" not in shown
    if fold != ():
        assert shown.split().count("long") == 3


HEADINGS = ["stage", "FLOPs blocks", "FLOPs total", "saved blocks", "saved total", "memory used"]
COSTS = [
    ["1", "1.123e+12", "1.456e+12", "26.75 %", "17.20 %", "0.12 GB"],
    ["2", "2.5e+12", "3e+12", "1 %", "2 %", "9 GB"],
]


def printed(width: int, **options: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    print_whole(console, table(HEADINGS, COSTS, title="Costs", total=["all", *COSTS[0][1:5], ""], **options))
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [30, 40, 50, 60, 70, 80, 100])
@pytest.mark.parametrize("fold", [None, ()])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int, fold: tuple[str, ...] | None) -> None:
    lines = printed(width, fold=fold)
    assert max(map(len, lines)) <= width
    for number in COSTS[0][1:] + COSTS[1][1:]:
        assert any(number in line for line in lines)


def test_headings_break_before_rows_do() -> None:
    wide, middle, narrow = (printed(width, fold=()) for width in (100, 66, 40))
    assert "FLOPs blocks" in wide[1] and sum("1.123e+12" in line for line in wide) == 2
    assert ("FLOPs" in middle[1], "blocks" in middle[1], "blocks" in middle[2]) == (True, False, True)
    assert any("1.456e+12" in line and "26.75 %" in line for line in middle)
    assert narrow[:4] == ["Costs", " stage 1", "   FLOPs blocks  1.123e+12", "   FLOPs total   1.456e+12"]
    assert narrow[-5] == " stage all" and "memory" not in narrow[-1]  # an empty cell has no line


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_long_line_goes_on_below(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    line = "stage 1 to 2 (step 120): the training loss rose from 3.1234 to 3.4321; it never came back " * 2
    print_whole(console, table([""], [[line]], title="To look at", words=[""]))
    assert out.getvalue().split() == ["To", "look", "at", *line.split()]
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_a_heading_breaks_into_no_more_lines_than_there_is_need_for() -> None:
    """Four words one below the other stood beside room for them all."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=34, color_system=None)
    print_whole(console, table(["steps", "loss at its end", "draw spread"], [["3", "8.2931", "0.0291"]], fold=()))
    shown = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert shown[:2] == [["loss", "at", "draw"], ["steps", "its", "end", "spread"]]


SWEPT = ["job", "t1", "status", "steps", "val loss", "perplexity", "FLOPs saved: blocks %", "total %", "folder"]


@pytest.mark.parametrize("width", [70, 76, 80, 86, 92, 100])
def test_a_column_that_cannot_give_room_does_not_push_others_over_the_edge(width: int) -> None:
    """rich took room from the folder's column, which is one word, and gave it back: lines two characters too long."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    row = ["1", "0.1", "done before", "6", "7.8987", "2693.79", "29.17", "18.56", "seed=0,t1=0.1"]
    print_whole(console, table(SWEPT, [row], words=["status", "folder"]))
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= width and "seed=0,t1=0.1" in shown
    assert width < 90 or "perplexity" in shown  # words of headings break last
