"""What a terminal shows of a running training: a panel, or one line where there is little room."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from est_cli.tracking.eta import StagePlan

PANEL_COLUMNS, PANEL_ROWS = 100, 12
"""The least terminal that gets the panel."""
BARS = "▁▂▃▄▅▆▇█"
CURVE_IN_LINE = 12
"""Characters of the curve that stands in a line."""
FRAME = 4
"""Columns of the panel's two sides."""
ECHO = 3
"""Columns that stay free behind the last line: the ^C that a terminal writes there would else begin a further line, and
one of these be left on the screen."""


@dataclass
class Curve:
    """A number over the steps, in means of as many steps each as keep it short."""

    means: list[float] = field(default_factory=list)
    most: int = 512
    _steps: int = 1
    _open: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """One step more; what is not finite is left out."""
        if not math.isfinite(value):
            return
        self._open.append(value)
        if len(self._open) < self._steps:
            return
        self.means.append(sum(self._open) / len(self._open))
        self._open.clear()
        if len(self.means) >= self.most:
            self.means = binned(self.means, self.most // 2)
            self._steps *= 2


def binned(values: Sequence[float], bins: int) -> list[float]:
    """Means of `bins` parts of equal length, or the values themselves where these are fewer."""
    count = len(values)
    if count <= bins:
        return [*values]
    ends = [count * number // bins for number in range(bins + 1)]
    return [sum(values[low:high]) / (high - low) for low, high in pairwise(ends)]


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` bars, from the lowest to the highest value."""
    shown = binned(values, width)
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def stage_bar(stages: Sequence[StagePlan], step: int, width: int) -> Text:
    """The run from left to right, what is done in bold, and where a stage ends a mark."""
    total = max(stages[-1].until_step, 1)
    done, ends = width * step // total, {width * stage.until_step // total for stage in stages[:-1]}
    signs = ["┃" if place in ends else "━" if place < done else "─" for place in range(width)]
    bar = Text("".join(signs[:done]), style="bold cyan")
    return bar.append("".join(signs[done:]), style="dim")


@dataclass
class TrainingView:
    """What is known of the run now; draws itself as large as there is room."""

    stages: Sequence[StagePlan]
    total: int
    step: int
    stage: int = 0
    """0: no step was done yet."""
    loss: float = math.nan
    saved_pct: float = 0.0
    saved_pct_end: float = 0.0
    tokens_per_s: float = 0.0
    mem_gb: float = 0.0
    left: str = "--:--"
    curve: Curve = field(default_factory=Curve)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - ECHO
        if not self.stage:
            yield Text(f"step {self.step}/{self.total}  the first one takes longest")
        elif options.max_width < PANEL_COLUMNS or console.height < PANEL_ROWS:
            yield Text(self.line(width), no_wrap=True)
        else:
            yield self._panel(width)

    def line(self, width: int) -> str:
        """As much as there is room for; what is shown is whole."""
        parts, room, kept = self._parts(), width, set[int]()
        for number in sorted(range(len(parts)), key=lambda number: parts[number][0]):
            room -= cell_len(parts[number][1]) + 2 * bool(kept)
            if room < 0:
                break
            kept.add(number)
        return "  ".join(parts[number][1] for number in sorted(kept))

    def _parts(self) -> list[tuple[int, str]]:
        """In the order in which they stand, each with its place in the order of what matters."""
        return [
            (0, f"step {self.step}/{self.total}"),
            (3, self._stage),
            (1, f"loss {self.loss:.4f}"),
            (4, f"saved {self.saved_pct:.1f} %"),
            (6, f"(end {self.saved_pct_end:.1f} %)"),
            (7, f"{self.tokens_per_s:,.0f} tok/s"),
            (8, f"{self.mem_gb:.2f} GB"),
            (2, f"left {self.left}"),
            (5, sparkline(self.curve.means, CURVE_IN_LINE)),
        ]

    @property
    def _stage(self) -> str:
        return f"stage {self.stage}/{self.stages[-1].number}"

    def _panel(self, width: int) -> Panel:
        loss, stage = f"loss {self.loss:.4f}", self._stage
        room = width - FRAME - max(len(loss), len(stage)) - 2
        rows = Table.grid(padding=(0, 2, 0, 0))
        rows.add_row(loss, Text(sparkline(self.curve.means, room), style="green"))
        rows.add_row(stage, stage_bar(self.stages, self.step, room))
        numbers = Table.grid(padding=(0, 3, 0, 0))
        numbers.add_row(*self._numbers())
        whole = Table.grid()
        whole.add_row(rows)
        whole.add_row(numbers)
        return Panel(whole, box=box.ROUNDED, width=width)

    def _numbers(self) -> Iterator[str]:
        yield f"step {self.step:,} of {self.total:,}"
        yield f"left {self.left}"
        yield f"saved {self.saved_pct:.1f} % so far, {self.saved_pct_end:.1f} % at the end"
        yield f"{self.tokens_per_s:,.0f} tok/s"
        yield f"{self.mem_gb:.2f} GB"
