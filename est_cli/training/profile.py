"""A profiler trace of some steps, on request: what ran on the CPU and the device, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function


class StepProfile:
    """Records `steps` (1-based; an empty range: none) and writes one trace into `folder`.

    The trace is a file for chrome://tracing or ui.perfetto.dev. Use it in a `with` block: a profiler that is left
    running takes the process down with it. What it has to tell goes to `line`; a disk that refuses stops nothing.
    """

    def __init__(self, folder: Path, steps: range, device: torch.device, line: Callable[[str], None]) -> None:
        self._folder, self._steps, self._device, self._line = folder, steps, device, line
        self._running: profile | None = None
        self._recorded: list[int] = []

    def __enter__(self) -> StepProfile:
        return self

    def __exit__(self, *_: object) -> None:
        """Write what was recorded so far."""
        if self._running is not None:
            self._write()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the launch of step `number`."""
        if self._running is None and number in self._steps:
            self._start()
        if self._running is None:
            yield
            return
        with record_function(f"step {number}"):
            yield
        self._recorded.append(number)
        if number + 1 not in self._steps:
            self._write()

    def _start(self) -> None:
        self._synchronize()  # what was launched before does not belong to the trace
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        self._running = profile(activities=activities)
        self._running.start()

    def _write(self) -> None:
        assert self._running is not None
        self._synchronize()
        running, self._running, self._steps = self._running, None, range(0)
        running.stop()
        if not self._recorded:
            return
        path = self._folder / f"steps-{self._recorded[0]:06d}-{self._recorded[-1]:06d}.json"
        try:
            self._folder.mkdir(exist_ok=True)
            running.export_chrome_trace(str(path))
        except (OSError, RuntimeError) as error:
            self._line(f"warning: no profile written to {path}: {error}")
        else:
            self._line(f"profile   {path}")

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
