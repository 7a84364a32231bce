"""A profiler trace of some steps, on request: what ran on the CPU and the device, and when."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


class StepProfile:
    """Records the `count` steps from step number `first` on (1-based; None: never) and writes one trace into `folder`.

    The trace is a file for chrome://tracing or ui.perfetto.dev.
    """

    def __init__(self, folder: Path, first: int | None, count: int, device: torch.device) -> None:
        self._folder, self._device = folder, device
        self._steps = range(0) if first is None else range(first, first + count)
        self._running: profile | None = None

    def before(self, number: int) -> None:
        """Call it before step `number` is given to the device."""
        if number not in self._steps or self._running is not None:
            return
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        self._running = profile(activities=activities)
        self._running.start()

    def after(self, number: int, last: bool) -> Path | None:
        """Call it after step `number`; the file's path once it is written, which is after the last recorded step."""
        if self._running is None or not (last or number + 1 not in self._steps):
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what was launched belongs to the trace
        self._running.stop()
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"steps-{self._steps.start:06d}-{number:06d}.json"
        self._running.export_chrome_trace(str(path))
        self._running, self._steps = None, range(0)
        return path
