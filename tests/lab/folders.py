"""Small folders for the store's tests: three files whose content depends on the step, and faults on order."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from est_cli.storage import disk, store

NAMES = ("config.json", "model.safetensors", "state.json")


def contents(step: int) -> dict[str, bytes]:
    return {name: f"{name} of step {step} ".encode() * (40 + 10 * i) for i, name in enumerate(NAMES)}


def save(folder: Path, step: int) -> Path:
    """Write step-NNNNNN with a fault point in the middle of each file, as a kill can meet it half written."""

    def fill(tmp: Path) -> None:
        for name, data in contents(step).items():
            with (tmp / name).open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                disk.fault_point(f"middle of {name}")
                file.write(data[len(data) // 2 :])

    target = folder / f"step-{step:06d}"
    store.write_folder(target, fill, {"step": step})
    return target


def is_whole(path: Path) -> bool:
    """Independent of the manifest: every file has the bytes of the step that the folder's name says."""
    step = int(path.name.removeprefix("step-"))
    return all((path / name).read_bytes() == data for name, data in contents(step).items())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def leftovers(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


def killed_at(k: int, work: Callable[[], object]) -> bool:
    """Run `work` in a forked child that is killed at its k-th fault point; False if it ended before."""
    pid = os.fork()
    if pid == 0:
        countdown = [k]

        def kill(_: str) -> None:
            countdown[0] -= 1
            if not countdown[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        disk.fault_point = kill
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), "the writer itself failed"
    return status != 0


def fail_at(monkeypatch: pytest.MonkeyPatch, k: int, code: int) -> list[str]:
    """Make the k-th fault point from now on fail with errno `code`. Returns the growing list of points passed."""
    passed: list[str] = []

    def fail(name: str) -> None:
        passed.append(name)
        if len(passed) == k:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(disk, "fault_point", fail)
    return passed


REFUSALS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)
