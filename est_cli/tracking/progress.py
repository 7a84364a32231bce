"""What a person sees of a running training: a live panel in a terminal, plain lines now and then everywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.live import Live

from est_cli.common.counts import hours_minutes
from est_cli.common.table import print_lines
from est_cli.tracking.eta import StagePlan, remaining_seconds
from est_cli.tracking.panel import TrainingView

__all__ = ["RunProgress", "StagePlan"]

PLAIN_EVERY_S = 60.0
PLAIN_EVERY_FRAC = 0.05
LIVE_EVERY_S = 0.2
MEDIAN_OVER_STEPS = 200


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more: rich would end the process, and with it a training that is recorded all the same."""
        self.quiet = True


class RunProgress:
    """Shows stage, loss, FLOPs saved (now and at the end, convention `blocks`), speed and time left; for rank 0."""

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        stages: list[StagePlan],
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        quiet: bool = False,
    ) -> None:
        """`first_step`: steps done before this process began (0 unless resumed). Writes to stderr by default, and under
        `quiet`, for the other ranks, nowhere."""
        self.echo: Callable[[str], None] = lambda text: None  # gets every line too
        self._total, self._stages, self._clock = total_steps, stages, clock
        self._console = console or _Stderr(stderr=True, quiet=quiet)
        self._observed_s = {stage.number: deque[float](maxlen=MEDIAN_OVER_STEPS) for stage in stages}
        self._shown_step, self._shown_at = first_step, clock()
        self._view = TrainingView(stages, total_steps, first_step)
        self._live = _live(self._console, self._view) if self._console.is_terminal and not quiet else None
        if self._live is not None:
            self._live.start()

    def update(
        self,
        step: int,
        stage: int,
        step_s: float,
        loss: float,
        saved_pct: float,
        saved_pct_end: float,
        tokens_per_s: float,
        mem_gb: float,
    ) -> None:
        """Tell that `step` steps are done, the last in `step_s` seconds; shown only as often as a person can read."""
        self._observed_s[stage].append(step_s)
        self._view.curve.add(loss)
        if not self._due(step):
            return
        self._shown_step, self._shown_at = step, self._clock()
        view = self._view
        view.step, view.stage, view.loss, view.tokens_per_s, view.mem_gb = step, stage, loss, tokens_per_s, mem_gb
        view.saved_pct, view.saved_pct_end = saved_pct, saved_pct_end
        view.left = hours_minutes(remaining_seconds(self._stages, step, self._observed_s))
        if self._live is None:
            self.line(
                f"step {step}/{self._total}  stage {stage}/{self._stages[-1].number}  loss {loss:.4f}  "
                f"saved {saved_pct:.1f} % (end {saved_pct_end:.1f} %)  {tokens_per_s:,.0f} tok/s  left {view.left}"
            )

    def back_to(self, step: int) -> None:
        """`step` steps are done again."""
        self._shown_step = min(self._shown_step, step)

    def line(self, text: str) -> None:
        """Write one message, above the panel where there is one."""
        self.echo(text)
        print_lines(self._console, text)

    def close(self) -> None:
        """Take the panel off the screen; may be called twice."""
        if self._live is not None:
            self._live.stop()

    def _due(self, step: int) -> bool:
        waited_s = self._clock() - self._shown_at
        if step >= self._total:
            return True
        if self._live is not None:
            return waited_s >= LIVE_EVERY_S
        return waited_s >= PLAIN_EVERY_S or step - self._shown_step >= PLAIN_EVERY_FRAC * self._total


def _live(console: Console, view: TrainingView) -> Live:
    return Live(view, console=console, refresh_per_second=4, transient=True)
