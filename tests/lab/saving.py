"""A stand-in for a run, as far as a Saver uses it, and disks that are slow or full."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from est_cli.common.rank import Rank
from est_cli.config import RunConfig
from est_cli.storage import content, disk, store
from est_cli.storage.run_dir import RunDir
from est_cli.tracking import MetricsFile
from est_cli.training.run import RunState
from est_cli.training.save import Saver
from tests.lab.checkpoint_models import adamw, gpt2, tokenizer, train

WAIT_S = 30


def small_run(folder: Path) -> Any:
    """What a Saver uses of a run of 100 steps with transitions at 20 and 40; `lines` is what the user is told."""
    model, lines = gpt2(0), []
    optimizer = adamw(model)
    train(model, optimizer, range(1))
    metrics = MetricsFile(folder / "metrics.jsonl")
    metrics.append({"step": 1})
    return SimpleNamespace(
        dir=RunDir(folder),
        state=RunState(step=10, last_loss=2.5),
        model=model,
        optimizer=optimizer,
        corpus=SimpleNamespace(tokenizer=tokenizer()),
        tracker=SimpleNamespace(metrics=metrics, sync=lambda: metrics.sync()),
        rank=Rank(),
        progress=SimpleNamespace(line=lines.append),
        resolved=SimpleNamespace(lasting=[20, 40]),
        config=RunConfig(),
        lines=lines,
    )


def spoil(run: Any) -> None:
    """Training goes on: every value changes in place."""
    with torch.no_grad():
        for param in run.model.parameters():
            param.add_(1.0)
            for value in run.optimizer.state.get(param, {}).values():
                value.add_(1.0)
    run.state.last_loss = -1.0


def stored(run: Any, step: int) -> dict[str, torch.Tensor]:
    folder = run.dir.checkpoints / f"step-{step:06d}"
    assert store.is_intact(folder)
    return {**load_file(folder / content.WEIGHTS), **load_file(folder / content.OPTIMIZER)}


def steps(run: Any) -> list[int]:
    return [step for step, _ in store.step_folders(run.dir.checkpoints)]


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every writer stands still before its first change of the disk until the event is set; none outlives the block."""
    go = threading.Event()

    def wait(name: str) -> None:
        assert go.wait(WAIT_S)

    monkeypatch.setattr(disk, "fault_point", wait)
    try:
        yield go
    finally:
        go.set()
        for thread in threading.enumerate():
            if thread.name == "checkpoint":  # one that is left alone would meet the next test's disk
                thread.join(WAIT_S)


def refuse(monkeypatch: pytest.MonkeyPatch, points: str, times: int) -> None:
    """A disk that is full the first `times` times at fault points that begin so."""
    left = [times]

    def fail(name: str) -> None:
        if name.startswith(points) and left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, "fault_point", fail)


def settled(saver: Saver) -> None:
    """Let the write end without telling what came of it."""
    if saver._writing is not None:
        saver._writing[1].exception(WAIT_S)


def save_and_poll(saver: Saver) -> None:
    saver.save()
    settled(saver)
    saver.poll()
