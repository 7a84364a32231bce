"""Bars on narrow terminals: words go on below, no number is cut."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import TextColumn

from est_cli.common.bars import NO_WRAP, progress_bar


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_cut(width: int) -> None:
    out, what = io.StringIO(), "outputs/gpt2_tiny-three_stage-1: sst2, seed 0 of 3 [b]"
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    bar = progress_bar(console, TextColumn("{task.fields[eta]} left", table_column=NO_WRAP))
    bar.update(bar.add_task(what, total=100, eta="12:02:03"), completed=42)
    console.print(bar.get_renderable())
    lines = out.getvalue().splitlines()
    assert "…" not in out.getvalue() and " 42% 12:02:03 left" in lines[0] and max(map(len, lines)) <= width
    words = "".join(line.partition("━")[0] for line in lines)
    assert "".join(words.split()) == "".join(what.split())
