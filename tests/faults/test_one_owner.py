"""J: a run's folder has one owner and is never taken from anybody; where and as whom a user works changes nothing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bad_disk import backwards, masked
from tests.faults.conftest import Tally
from tests.faults.refused import check_ended, unchanged
from tests.faults.size import either, only_full
from tests.faults.test_full_disk import expected, result
from tests.lab.lab import ENVIRONMENT, TINY, Lab, outcome
from tests.training.test_start import SHORT, STOP_AT_5

pytestmark = pytest.mark.row("J")

Golden = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("count", either([2, 3, 6], [2]))
def test_several_continue_one_run(lab: Lab, golden: Golden, tally: Tally, count: int) -> None:
    """One does it; the others are told who, or that there is nothing left to do."""
    assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    pids = [lab.start("resume=outputs/x", name=f"{number}-") for number in range(count)]
    ended = [lab.ended(pid, f"{number}-") for number, pid in enumerate(pids)]
    codes = [one.code for one in ended]
    assert set(codes) <= {0, 8} and 0 in codes, [one.err for one in ended]
    for one in ended:
        if one.code:
            check_ended(one, 8, "outputs/x: in use by process ")
    assert sum("resumed   after step 5" in one.err for one in ended) == 1
    assert result(lab.at("x")) == expected(golden, *SHORT)
    tally(inputs=count)


@pytest.mark.parametrize("count", either([2, 3, 6], [2]))
def test_several_begin_one_run(lab: Lab, golden: Golden, tally: Tally, count: int) -> None:
    arguments = lab.arguments(*SHORT, "run_name=x")
    pids = [lab.start(*arguments, name=f"{number}-") for number in range(count)]
    ended = [lab.ended(pid, f"{number}-") for number, pid in enumerate(pids)]
    assert sorted({one.code for one in ended} | {2, 8}) == [0, 2, 8]
    assert [one.code for one in ended].count(0) == 1
    for one in ended:
        if one.code:
            check_ended(one, one.code, "outputs/x")
    assert outcome(lab.at("x")) == golden(*SHORT)
    tally(inputs=count)


@pytest.mark.parametrize(
    "content",
    ["", "1\n", f"{os.getpid()}\n", "no number\n", "9" * 5000, "\0" * 20],
    ids=["empty", "init", "alive", "text", "huge", "zeros"],
)
def test_a_lock_that_nobody_holds(lab: Lab, golden: Golden, tally: Tally, content: str) -> None:
    """Left by kill -9, its process id now another's; whatever it says does not count."""
    assert lab.tiny("x", *SHORT, plants=[(*STOP_AT_5[:4], "SIGKILL")]).code == -9
    (lab.at("x") / ".lock").write_text(content)
    assert lab.train("resume=outputs/x").code == 0
    assert outcome(lab.at("x")) == golden(*SHORT)
    tally(kills=1, inputs=1)


def a_link(path: Path) -> None:
    (path.parent / "real").mkdir()
    path.symlink_to("real")


def a_file(path: Path) -> None:
    path.write_text("my thesis")


def of_somebody(path: Path) -> None:
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "thesis.tex").write_text("my thesis")


def of_another_tool(path: Path) -> None:
    (path / "checkpoints" / "step-000001").mkdir(parents=True)
    (path / "summary.txt").write_text("done")


def hidden(path: Path) -> None:
    path.mkdir()
    (path / ".git").mkdir()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (a_link, "run_name: outputs/x is there and is not a folder"),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), "run_name: outputs/x is there and is not a folder"),
    "a file": (a_file, "run_name: outputs/x is there and is not a folder"),
    "a pipe": (os.mkfifo, "run_name: outputs/x is there and is not a folder"),
    "somebody's": (of_somebody, "run_name: outputs/x holds files that are no run's"),
    "another tool's": (of_another_tool, "run_name: outputs/x holds files that are no run's"),
    "hidden files": (hidden, "run_name: outputs/x holds files that are no run's"),
}


@pytest.mark.parametrize("resume", ["null", "auto"])
@pytest.mark.parametrize("case", either(list(FOREIGN), ["somebody's"]))
def test_a_folder_that_is_somebody_elses(lab: Lab, tally: Tally, case: str, resume: str) -> None:
    make, message = FOREIGN[case]
    (lab.folder / "outputs").mkdir()
    make(lab.at("x"))
    with unchanged(lab.folder / "outputs"):
        check_ended(lab.train(*lab.arguments(*SHORT, "run_name=x", f"resume={resume}")), 2, message)
    tally(inputs=1)


def test_outputs_that_is_a_file(lab: Lab, tally: Tally) -> None:
    (lab.folder / "outputs").write_text("my thesis")
    with unchanged(lab.folder / "outputs"):
        check_ended(lab.train(*lab.arguments(*SHORT, "run_name=x")), 6, "outputs")
    tally(inputs=1)


@pytest.mark.parametrize("mask", either([0o022, 0o027, 0o077, 0o002], [0o027]))
def test_who_may_read_it(lab: Lab, golden: Golden, tally: Tally, mask: int) -> None:
    """As the umask says, the weights too: safetensors alone would keep them to their owner."""
    assert lab.tiny("x", *SHORT, plants=[masked(mask)]).code == 0
    files = [path for path in lab.at("x").rglob("*") if path.is_file() and path.name != ".lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}
    assert {stat.S_IMODE(path.stat().st_mode) for path in lab.at("x").rglob("*") if path.is_dir()} == {0o777 & ~mask}
    assert outcome(lab.at("x")) == golden(*SHORT)
    tally(inputs=1)


def test_a_clock_that_is_set_back(lab: Lab, golden: Golden, tally: Tally) -> None:
    """The newest checkpoint is that of the last step, whatever the times say."""
    assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    for number, path in enumerate(sorted((lab.at("x") / "checkpoints").iterdir())):
        os.utime(path, (2e9 - 1000 * number, 2e9 - 1000 * number))
    ended = lab.train("resume=outputs/x", plants=[backwards()])
    assert ended.code == 0 and "resumed   after step 5" in ended.err, ended.err
    assert result(lab.at("x")) == expected(golden, *SHORT)
    tally(inputs=1)


PLACES = ("with spaces", "résumé 東京 🦊", "a'b\"c", "$HOME ${x}", "-dash", "[a]*?", "a=b,c", "x" * 200)


@pytest.mark.parametrize("place", either(PLACES, PLACES[1:2]))
def test_the_name_of_the_place(lab: Lab, golden: Golden, tally: Tally, place: str) -> None:
    folder = lab.folder / place
    folder.mkdir()
    (folder / "data").symlink_to(lab.folder / "data")
    shutil.copy(lab.corpus, folder / "corpus.jsonl")
    there = Lab(lab.server, folder, Path("corpus.jsonl"))
    assert there.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    assert there.train("resume=outputs/x").code == 0
    assert result(there.at("x")) == expected(golden, *SHORT)
    tally(inputs=1)


MACHINES: dict[str, list[str]] = {
    "C, and no home": ["env", "-u", "HOME", "LANG=C", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"],
    "no network": ["unshare", "--net", "--map-root-user"],
    "nothing to write into at home": ["env", "HOME=/proc/nowhere", "TMPDIR=."],
}


@only_full
@pytest.mark.parametrize("case", MACHINES)
def test_the_real_command_on_an_odd_machine(lab: Lab, golden: Golden, tally: Tally, case: str) -> None:
    prefix = MACHINES[case]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"{prefix[0]} does not do that here")
    place = lab.folder / "résumé"
    place.mkdir()
    (place / "data").symlink_to(lab.folder / "data")
    shutil.copy(lab.corpus, place / "corpus.jsonl")
    overrides = [item for item in (*TINY, *SHORT) if not item.startswith("dataset.files")]
    arguments = dict(item.split("=", 1) for item in (*overrides, "dataset.files=corpus.jsonl", "run_name=x"))
    command = [*prefix, str(Path(sys.executable).with_name("est-train")), *(f"{k}={v}" for k, v in arguments.items())]
    ended = subprocess.run(
        command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert result(place / "outputs" / "x") == expected(golden, *SHORT)
    tally(inputs=1)
