"""D1: a disk that is full, read-only, failing or slow while a run writes: older checkpoints stay, one line tells."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from est_cli.common.errors import StorageError
from est_cli.reporting.figures import plot_run
from est_cli.storage.store import step_folders, verify_folder
from est_cli.tracking.metrics import MetricsFile, read_metrics
from tests.faults import test_crash_points as traced
from tests.faults.bad_disk import losing, mount, refusing, small_disk
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, check_line, told_as, unchanged
from tests.faults.size import either
from tests.lab.folders import is_whole, leftovers, names
from tests.lab.lab import Ended, Lab, outcome
from tests.lab.made_runs import records
from tests.storage.test_crash import newest_of, no_warning, with_three
from tests.training.test_start import SHORT, STOP_AT_5

pytestmark = pytest.mark.row("D1")

KB = 1 << 10
SIZES = [n * KB for n in (4, 16, 64, 256, 512, 900, 1200, 1600, 2000, 2400, 2800, 3200, 3600, 4000, 6000)]
"""From what holds nothing to what holds the whole run with its three checkpoints and its model."""

Golden = Callable[..., dict[str, Any]]


def intact(run: Path) -> int:
    """How many checkpoints there are; each verifies, and no half one is left."""
    found = step_folders(run / "checkpoints")
    for _, path in found:
        verify_folder(path)
    assert not leftovers(names(run / "checkpoints")) if found else True
    return len(found)


def result(run: Path) -> dict[str, Any]:
    """What must be the same also where checkpoints on the way could not be saved."""
    found = outcome(run)
    model = {name: digest for name, digest in found["sha256"].items() if name.startswith("model/")}
    return {"records": found["records"], "model": model, "left over": found["left over"]}


def expected(golden: Golden, *overrides: str) -> dict[str, Any]:
    found = golden(*overrides)
    model = {name: digest for name, digest in found["sha256"].items() if name.startswith("model/")}
    return {"records": found["records"], "model": model, "left over": found["left over"]}


@pytest.mark.parametrize("size", either(SIZES, SIZES[4:10:5]))
def test_a_disk_that_fills_up(lab: Lab, golden: Golden, tally: Tally, size: int) -> None:
    """With more room, the same command goes on to the same end."""
    outputs = lab.folder / "outputs"
    with small_disk(outputs, size):
        ended = lab.tiny("x", *SHORT)
        if ended.code:
            told(ended, "outputs", "No space left")
            intact(lab.at("x"))
            assert mount("-o", f"remount,size={64 << 20}", str(outputs))
            ended = lab.tiny("x", *SHORT)
        else:
            refused = ended.err.count("warning: no checkpoint at step ")
            assert size > 2_500_000 or 1 <= refused <= 2, ended.err
        assert ended.code == 0, ended.err
        assert result(lab.at("x")) == expected(golden, *SHORT)
        assert intact(lab.at("x")) >= 1
    tally(inputs=1)


def told(ended: Ended, *words: str) -> None:
    assert ended.code == 6 and ended.out == "" and "Traceback" not in ended.err, (ended.code, ended.err)
    (line,) = ended.last_words
    check_line(line, "est-train: error: ", *words)


def test_a_disk_that_is_read_only(lab: Lab, golden: Golden, tally: Tally) -> None:
    outputs = lab.folder / "outputs"
    with small_disk(outputs, 64 << 20):
        assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
        assert mount("-o", "remount,ro", str(outputs))
        with unchanged(outputs):
            check_ended(lab.train("resume=outputs/x"), 6, "outputs/x/", "Read-only file system")
            check_ended(lab.tiny("y", *SHORT), 6, "outputs/y", "Read-only file system")
        assert mount("-o", "remount,rw", str(outputs))
        assert lab.train("resume=outputs/x").code == 0
        assert result(lab.at("x")) == expected(golden, *SHORT)
    tally(inputs=2)


@pytest.mark.parametrize("size", either([4 * KB, 12 * KB, 24 * KB], [24 * KB]))
def test_no_room_for_the_tokens(shared: Lab, tmp_path: Path, golden: Golden, tally: Tally, size: int) -> None:
    """Nothing is begun. With room it is; and tokens that are there need no disk that can be written to."""
    lab, data = Lab(shared.server, tmp_path, shared.corpus), tmp_path / "data"
    with small_disk(data, size):
        told(lab.tiny("x", *SHORT), "data/", "No space left")
        assert not (tmp_path / "outputs").exists() and not list(data.glob(".tmp-*"))
        assert mount("-o", f"remount,size={1 << 20}", str(data))
        assert lab.tiny("x", *SHORT).code == 0
        assert mount("-o", "remount,ro", str(data))
        with unchanged(data):
            assert lab.tiny("y", *SHORT).code == 0
    assert result(lab.at("x")) == result(lab.at("y")) == expected(golden, *SHORT)
    tally(inputs=2)


def test_no_room_for_the_pictures(tmp_path: Path, tally: Tally) -> None:
    """At the end of a run (the victims draw none)."""
    with small_disk(tmp_path / "plots", 8 * KB):
        line = told_as(StorageError, lambda: plot_run(records("three_stage", 8, 0.0, 4, 1), tmp_path / "plots", "x"))
    check_line(line, str(tmp_path / "plots/loss.png"), "No space left", "(ENOSPC)")
    tally(inputs=1)


def test_records_until_the_disk_is_full(tmp_path: Path, tally: Tally) -> None:
    """The system writes as much of the last one as there is room for, and tells no error."""
    with small_disk(tmp_path / "run", 8 * KB):
        file, steps = MetricsFile(tmp_path / "run" / "metrics.jsonl"), itertools.count()

        def append() -> None:
            for step in steps:
                file.append({"step": step, "loss": step / 7})

        check_line(told_as(StorageError, append), "metrics.jsonl", "No space left")
        assert 50 < len(read_metrics(file.path)) == next(steps) - 1
    tally(inputs=1)


def test_mended_records_are_synced_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(Path(os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(os, "replace", lambda path, target: done.append(path) or replace(path, target))
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    file.truncate_after(1)
    assert done[0] == done[1] and done[2:] == [tmp_path] and done[0].name.startswith(".tmp-metrics.jsonl-")


CHANGES = ("write", "fsync", "rename", "mkdir", "unlink")
CODES = ("EIO", "EDQUOT", "EROFS", "ENOSPC")
PAIRS = [(name, code) for name in CHANGES for code in CODES]
FIRST = "outputs/x/checkpoints/step-000002"


EACH = ("train.checkpoint_every=1", *(item for item in SHORT if not item.startswith("train.checkpoint_every")))
"""A checkpoint after each step, so that old ones are removed."""


@pytest.mark.parametrize(("name", "code"), either(PAIRS, PAIRS[5:6]))
def test_one_refusal_is_a_warning(lab: Lab, golden: Golden, tally: Tally, name: str, code: str) -> None:
    """While an older checkpoint is there; what is trained is the same."""
    ended = lab.tiny("x", *EACH, plants=[refusing(name, 1, code, FIRST)])
    assert ended.code == 0 and ended.last_words == [], ended.err
    (warning,) = (line for line in ended.err.splitlines() if line.startswith("warning: "))
    check_line(warning, "at step ", "outputs/x/", f"({code})")
    found = result(lab.at("x"))
    if name == "unlink":  # what could not be deleted is, when a run is started or continued the next time
        found["left over"] = [path for path in found["left over"] if not path.startswith(".trash-")]
    assert found == expected(golden, *EACH) and len(step_folders(lab.at("x") / "checkpoints")) >= 3
    tally(inputs=1)


@pytest.mark.parametrize(("name", "code"), either(PAIRS[:16], PAIRS[:1]))
def test_a_disk_that_refuses_for_good(lab: Lab, golden: Golden, tally: Tally, name: str, code: str) -> None:
    """Three in a row stop the run, with the older checkpoints as they were; later it goes on."""
    ended = lab.tiny("x", *EACH, plants=[refusing(name, 99, code, FIRST)])
    told(ended, "outputs/x/", f"({code})")
    assert ended.err.count("warning: no checkpoint at step ") == 2
    assert intact(lab.at("x")) >= 1
    assert lab.tiny("x", *EACH).code == 0
    assert outcome(lab.at("x")) == golden(*EACH)
    tally(inputs=1)


@pytest.mark.parametrize("path", either(["outputs/x", "outputs", "outputs/x/checkpoints"], ["outputs/x"]))
def test_a_folder_that_is_deleted_under_the_run(lab: Lab, tally: Tally, path: str) -> None:
    ended = lab.tiny("x", *SHORT, plants=[losing("est_cli.training.train.train_step", 4, path)])
    if path.endswith("checkpoints"):  # they are made again
        assert ended.code == 0 and intact(lab.at("x")) > 0
    else:
        told(ended, "outputs/x")
        assert not lab.at("x").exists()
    tally(inputs=1)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_disk_that_is_slow(lab: Lab, golden: Golden, tally: Tally, ahead: bool) -> None:
    """Half a second for each checkpoint, also where it is written while training goes on."""
    plants = [("at_fault_point", "fsync MANIFEST", "pause"), *([("device_works_on_its_own",)] if ahead else [])]
    assert lab.tiny("x", *SHORT, plants=plants).code == 0
    assert outcome(lab.at("x")) == golden(*SHORT)
    tally(inputs=1)


CALLS = ("mkdir", "openat", "write", "fchmod", "fsync", "rename", "unlink", "rmdir")


@pytest.mark.parametrize("code", either(CODES, ["EIO"]))
def test_system_calls_that_fail(tmp_path: Path, tally: Tally, code: str) -> None:
    """Each call of the writer that changes the disk, refused by the system itself, once."""
    traced.skip_without_strace()
    template = with_three(tmp_path / "template")
    whole = shutil.copytree(template, tmp_path / "whole")
    assert traced.write(whole, tmp_path / "log") == 0
    calls = [call for call in traced.calls_of(tmp_path / "log", whole) if call[0] in CALLS]
    assert {name for name, _, _ in calls} >= set(CALLS) - {"openat"} - {"unlink"}
    for name, number, what in calls[:: either(4, 24)]:
        folder = shutil.copytree(template, tmp_path / "x")
        failed = run_traced(folder, tmp_path / "log-x", f"inject={name}:error={code}:when={number}")
        assert (failed.endswith(f"({code})") and str(folder) in failed) or not failed, (name, number, what, failed)
        newest = newest_of(folder, no_warning)
        assert newest is not None and is_whole(newest) and is_whole(folder / "step-000010")
        assert is_whole(folder / "step-000030") and not [n for n in leftovers(names(folder)) if ".tmp-" in n], what
        shutil.rmtree(folder)
        tally(inputs=1)


def run_traced(folder: Path, log: Path, inject: str) -> str:
    """The StorageError that the writer ended with; empty where it needed no second try."""
    program = [traced.sys.executable, "-S", "-B", "-c", traced.WRITER, str(folder)]
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", inject, *program]
    environment = traced.ENVIRONMENT | {"PYTHONPATH": str(traced.ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if not ended.returncode:
        return ""
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("est_cli.common.errors.StorageError: "), ended.stderr
    return last
