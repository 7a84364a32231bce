"""What tests plant into a victim to make its disk fail, and disks that are really small or read-only."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from est_cli.storage import disk
from tests.lab.lab import Plant
from tests.lab.plants import _replace


def refusing(name: str, times: int, code: str, after: str = ".") -> Plant:
    """The first `times` times that the fault point `name` is passed once the path `after` is there, it fails so."""
    return (f"{__name__}.disk_refuses", name, times, code, after)


def failing(target: str, call: int, code: str) -> Plant:
    """The `call`-th call (from 1) of module.function `target` fails as a disk does."""
    return (f"{__name__}.call_fails", target, call, code)


def losing(target: str, call: int, pattern: str, size: int = -1) -> Plant:
    """Before that call the files and folders that match are removed, or the files cut to `size` bytes."""
    return (f"{__name__}.lose", target, call, pattern, size)


def masked(mask: int) -> Plant:
    """The umask of the process."""
    return (f"{__name__}.set_umask", mask)


def backwards() -> Plant:
    """A clock that was set back by a day, and goes on backwards."""
    return (f"{__name__}.turn_clock_back",)


def set_umask(mask: int) -> None:
    os.umask(mask)


def turn_clock_back() -> None:
    real = time.time
    time.time = lambda: real() - 86_400.0 - 10.0 * time.monotonic()


def disk_refuses(name: str, times: int, code: str, after: str) -> None:
    left, number = times, getattr(errno, code)

    def fault_point(point: str) -> None:
        nonlocal left
        if point.startswith(name) and left and os.path.exists(after):
            left -= 1
            raise OSError(number, os.strerror(number))

    disk.fault_point = fault_point


def call_fails(target: str, call: int, code: str) -> None:
    def fail() -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    _before(target, call, fail)


def lose(target: str, call: int, pattern: str, size: int) -> None:
    def spoil() -> None:
        found = glob.glob(pattern)
        assert found, pattern
        for path in found:
            if size >= 0:
                os.truncate(path, size)
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    _before(target, call, spoil)


def _before(target: str, call: int, action: Callable[[], None]) -> None:
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                action()
            return function(*args, **kwargs)

        return counted

    _replace(target, wrap)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at `place`. Skips where none can be mounted."""
    place.mkdir(exist_ok=True)
    if not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*arguments: str) -> bool:
    program = shutil.which("mount")
    if program is None:
        return False
    return subprocess.run([program, *arguments], capture_output=True, check=False).returncode == 0
