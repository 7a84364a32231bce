"""A1: a writer killed just before each single system call that changes the disk leaves the old or the new.

The calls are found by strace, which then kills the writer at the k-th of them: no fault point of ours decides where.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from est_cli.storage import store
from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.lab.folders import NAMES, contents, is_whole, leftovers, names, save
from tests.lab.lab import ENVIRONMENT, ROOT
from tests.storage.test_crash import newest_of, no_warning, with_three
from tests.storage.test_crash import (
    test_kill_at_every_point_of_save_and_retention_leaves_the_old_or_the_new as by_name,
)

pytestmark = pytest.mark.row("A1")

CALLS = (
    *("openat", "write", "pwrite64", "ftruncate", "fchmod", "fsync", "fdatasync", "mkdir", "mkdirat"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "close"),
)
WRITER = f"""
import os
import sys
from pathlib import Path
from est_cli.storage import disk, store

folder = Path(sys.argv[1])

def fill(tmp):
    for name, data in {contents(40)!r}.items():
        with (tmp / name).open("wb", buffering=0) as file:
            file.write(data[:100])
            file.write(data[100:])

def rename_first(*names):
    renamed = rename(*names)
    for fd in later:
        sync(fd)
    return renamed

if sys.argv[2:] == ["late"]:  # the planted bug
    sync, rename, later = os.fsync, disk.rename, []
    os.fsync, disk.rename = lambda fd: later.append(os.dup(fd)), rename_first
store.write_folder(folder / "step-000040", fill, {{"step": 40}})
store.retain(folder, 2, lambda step: step == 10)
"""


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Skips all of it where nothing can be traced."""
    skip_without_strace()


def skip_without_strace() -> None:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("no strace")
    if subprocess.run([found, "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


def write(folder: Path, log: Path, *options: str, arguments: tuple[str, ...] = ()) -> int:
    """Save step 40 and delete step 20, under strace; the exit code, or minus the signal."""
    program = [sys.executable, "-S", "-B", "-c", WRITER, str(folder), *arguments]
    command = ["strace", "-f", "-qq", "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}", *options, *program]
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == "", ended.stderr
    return ended.returncode


def calls_of(log: Path, folder: Path) -> list[tuple[str, int, str]]:
    """Each call that has to do with `folder`: its name, its number among all calls of that name, and what it is."""
    seen: Counter[str] = Counter()
    found = []
    for line in log.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)", line)
        if match is None:
            continue
        seen[match[1]] += 1
        if str(folder) in match[2]:
            found.append((match[1], seen[match[1]], match[2]))
    return found


def test_killed_before_every_system_call(tmp_path: Path, tally: Tally) -> None:
    template = with_three(tmp_path / "template")
    whole = shutil.copytree(template, tmp_path / "whole")
    assert write(whole, tmp_path / "log") == 0 and names(whole) == {"step-000010", "step-000030", "step-000040"}
    calls = calls_of(tmp_path / "log", whole)
    assert len(calls) > 50 and {name for name, _, _ in calls} >= {"openat", "write", "fsync", "unlink", "rename"}
    ends = []
    for call, number, told in calls[:: either(1, 12)]:
        folder = shutil.copytree(template, tmp_path / "x")
        code = write(folder, tmp_path / "log-x", "-e", f"inject={call}:signal=KILL:when={number}")
        assert code == -signal.SIGKILL, (call, number, told)
        newest = newest_of(folder, no_warning)
        assert newest is not None and newest.name in ("step-000030", "step-000040") and is_whole(newest), told
        assert is_whole(folder / "step-000010") and is_whole(folder / "step-000030"), told
        ends.append(newest.name)
        store.clean_leftovers(folder)
        assert not leftovers(names(folder))
        if newest.name == "step-000030":
            save(folder, 40)
        store.retain(folder, 2, lambda step: step == 10)
        assert names(folder) == {"step-000010", "step-000030", "step-000040"}, told
        shutil.rmtree(folder)
        tally(kills=1)
    assert ends == sorted(ends) and set(ends) == {"step-000030", "step-000040"}, "once the new one is there it stays"


def synced_before_its_name(log: Path, folder: Path) -> bool:
    """Whether each file of step 40, and its folder, was synced after its last write and before the rename."""
    dirty, opened = set(), set()
    for name, _, told in calls_of(log, folder):
        fd = re.match(r"\d+<([^>]*)>", told)
        file = Path(fd[1]).name if fd else ""
        if name == "write":
            dirty.add(file)
        elif name == "mkdir":
            dirty.add(Path(told.split('"')[1]).name)
        elif name == "fsync":
            dirty.discard(file)
            opened.add(file)
        elif name.startswith("rename") and ".tmp-" in told:
            return not dirty and {*NAMES, "MANIFEST.json"} <= opened
    raise AssertionError("nothing was renamed")


def test_everything_is_synced_before_it_has_its_name(tmp_path: Path) -> None:
    """What a power cut could undo; and that this would be noticed."""
    for arguments in ((), ("late",)):
        folder = with_three(tmp_path / f"x{len(arguments)}")
        assert write(folder, tmp_path / "log", arguments=arguments) == 0
        assert synced_before_its_name(tmp_path / "log", folder) == (not arguments)


@only_full
def test_killed_at_every_point_that_has_a_name(tmp_path: Path, tally: Tally) -> None:
    by_name(tmp_path)
    tally(kills=len(names(tmp_path)) - 1)
