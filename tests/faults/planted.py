"""What tests of faults plant into a victim, beside tests/lab/plants.py: numbers that go wrong, and what to measure."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from est_cli.training import step
from est_cli.training.run import Run
from tests.lab.lab import Plant
from tests.lab.plants import _replace


def planted(name: str, *arguments: Any) -> Plant:
    """A function of this file as the fork server wants it named."""
    return (f"{__name__}.{name}", *arguments)


def reseed_at_start() -> None:
    """Count what dropout is drawn from by the steps of this process, as where a generator is seeded anew."""
    real, first = step.hash_numbers, []

    def hashed(numbers: tuple[int, ...]) -> int:
        first.append(numbers[1])
        return real((numbers[0], numbers[1] - first[0], *numbers[2:]))

    step.hash_numbers = hashed


def write_gradients(folder: str) -> None:
    """Write each step's gradients, as the optimizer gets them, to FOLDER/STEP.safetensors, from rank 0."""
    real = step._update

    def update(run: Run, number: int, *args: Any) -> Any:
        if run.rank.first:
            os.makedirs(folder, exist_ok=True)
            found = {name: param.grad for name, param in run.model.named_parameters() if param.grad is not None}
            save_file({name: grad.contiguous() for name, grad in found.items()}, f"{folder}/{number}.safetensors")
        return real(run, number, *args)

    step._update = update


def infinite_gradient(number: int) -> None:
    """One infinity in one gradient of this process in this step (0-based), when its losses are done."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def passed(run: Run, *args: Any) -> Any:
            loss = function(run, *args)
            if run.state.step == number:
                run.model.get_input_embeddings().weight.grad[0, 0] = float("inf")
            return loss

        return passed

    _replace("est_cli.training.step.forward_backward", wrap)


def spike(number: int, factor: float) -> None:
    """A loss that many times as large, and its gradient, in this step (0-based)."""
    real = step.forward_backward

    def forward_backward(run: Run, *args: Any) -> torch.Tensor:
        loss = real(run, *args)
        if run.state.step != number:
            return loss
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        return loss * factor

    step.forward_backward = forward_backward


def take_for_ever(number: int) -> None:
    """Step `number` (0-based) does not end."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def slow(run: Run, at: int, *args: Any) -> Any:
            if at == number:
                time.sleep(60)
            return function(run, at, *args)

        return slow

    _replace("est_cli.training.train.train_step", wrap)


def write_usage(path: str, every: int) -> None:
    """Append after each so many-th step: the step, and this process's memory in bytes, open files and threads."""
    page = os.sysconf("SC_PAGE_SIZE")

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def written(run: Run, number: int, *args: Any) -> Any:
            result = function(run, number, *args)
            if (number + 1) % every == 0:
                with open("/proc/self/statm") as file:
                    resident = int(file.read().split()[1]) * page
                usage = [number + 1, resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))]
                with open(path, "a") as file:
                    print(json.dumps(usage), file=file)
            return result

        return written

    _replace("est_cli.training.train.train_step", wrap)


def no_alarm() -> None:
    """Let this victim take longer than the fork server allows."""
    signal.alarm(0)


def see_no_difference() -> None:
    """Take all ranks to have drawn the same."""
    loop = importlib.import_module("est_cli.training.train")
    loop.compare_replicas = lambda *args: None
