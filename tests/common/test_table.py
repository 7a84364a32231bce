"""Tables on narrow terminals: whatever is wide, no number is cut."""

from __future__ import annotations

import io

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


@pytest.mark.parametrize("width", [40, 80, 100])
def test_a_long_line_goes_on_below(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    line = "stage 1 to 2 (step 120): the training loss rose from 3.1234 to 3.4321; it never came back " * 2
    print_whole(console, table([""], [[line]], title="To look at", words=[""]))
    assert out.getvalue().split() == ["To", "look", "at", *line.split()]
    assert max(map(len, out.getvalue().splitlines())) <= width
