"""How much is left: by the work of training and of dev sets, not by steps."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from est_cli.tracking.work_progress import PLAIN_EVERY_S, WorkProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_work_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock, out = Clock(), io.StringIO()
    shown = WorkProgress(400.0, Console(file=out, width=100), None, clock)
    shown.begin("a: sst2, seed 0")
    assert shown.left() == "--:--"
    clock.now = PLAIN_EVERY_S - 1
    shown.advance(50.0)
    assert out.getvalue() == ""
    clock.now = 100.0
    shown.advance(50.0)
    assert out.getvalue() == "a: sst2, seed 0: 25% of all, 05:00 left\n" and shown.left() == "05:00"
    clock.now = 500.0
    shown.advance(300.5)
    assert shown.left() == "00:00"
