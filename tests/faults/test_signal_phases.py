"""G: every signal that asks to stop, in every phase of a run; the same to the real command and to its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from est_cli.storage.store import newest_valid
from tests.cli.launch.test_real import SETTINGS, start, wait_for_steps, workers
from tests.faults.conftest import Tally
from tests.faults.planted import planted
from tests.faults.size import either, only_full
from tests.faults.victims import PASS, STEP, Golden, finished, killed
from tests.lab.lab import ENVIRONMENT, TINY, Lab, Plant, heed_signals, tree_hash, write_corpus

pytestmark = pytest.mark.row("G")

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SAVING: dict[str, tuple[Plant, int]] = {
    "step": (("at_step", STEP, 12, "before"), 13),
    "micro-batch": (("at", PASS, 26, "before"), 13),
    "save": (("at_fault_point", "fsync optim.safetensors"), 5),
    "evaluation": (("at", "est_cli.training.validation.target_count", 2, "before"), 4),
}
"""Where the signal comes, and the step that is saved."""
BEFORE: dict[str, Plant] = {
    "tokens": ("at", "est_cli.training.parts.load_corpus", 1, "before"),
    "model": ("at", "est_cli.training.parts.build_model", 1, "before"),
    "load": ("at", "est_cli.storage.tensors.load_weights", 1, "after"),
}
"""Before the first step of a process there is nothing to save."""


@pytest.mark.parametrize("place", either(list(SAVING), ["micro-batch"]))
@pytest.mark.parametrize("number", either(list(STOPPING), [signal.SIGUSR2]))
def test_saved_at_the_next_boundary(lab: Lab, golden: Golden, tally: Tally, place: str, number: signal.Signals) -> None:
    plant, saved = SAVING[place]
    ended = lab.tiny("x", plants=[(*plant, number.name)])
    assert ended.code == 128 + number and "Traceback" not in ended.err
    assert ended.last_words == [f"est-train: stopped: outputs/x: saved at step {saved}; resume=outputs/x continues"]
    found = newest_valid(lab.at("x") / "checkpoints", pytest.fail)
    assert found is not None and found[0].name == f"step-{saved:06d}"
    tally(kills=1)
    assert finished(lab, "x") | {"checkpoints": ...} == golden() | {"checkpoints": ...}


@pytest.mark.parametrize("place", either(list(BEFORE), ["load"]))
@pytest.mark.parametrize("number", either(list(STOPPING), [signal.SIGHUP]))
def test_nothing_to_save_yet(lab: Lab, golden: Golden, tally: Tally, place: str, number: signal.Signals) -> None:
    killed(lab, "x", ("at_step", STEP, 7, "before"))
    before = tree_hash(lab.at("x") / "checkpoints")
    ended = lab.tiny("x", plants=[(*BEFORE[place], number.name)])
    assert ended.code == 128 + number and "Traceback" not in ended.err
    assert ended.last_words and "before a checkpoint could be saved" in ended.last_words[0]
    assert tree_hash(lab.at("x") / "checkpoints") == before
    tally(kills=2)
    assert finished(lab, "x") == golden()


AT_ONCE: dict[str, Plant] = {
    "micro-batch": ("at", PASS, 26, "before"),
    "save": ("at_fault_point", "rename .tmp-step-000013"),
}
"""Where the second signal comes, in or after the step of the first."""


@only_full
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("place", ["micro-batch", "save"])
def test_the_second_signal_ends_it_at_once(
    lab: Lab, golden: Golden, tally: Tally, place: str, second: signal.Signals
) -> None:
    ended = lab.tiny("x", plants=[("at", PASS, 25, "before", "SIGINT"), (*AT_ONCE[place], second.name)])
    assert ended.code == 128 + second and "Traceback" not in ended.err, ended.err
    newest = newest_valid(lab.at("x") / "checkpoints", pytest.fail)
    saved = {"micro-batch": {10}, "save": {10, 13}}[place]  # the writer is a thread and may just get to its end
    assert newest is not None and int(newest[0].name[-6:]) in saved
    tally(kills=1)
    assert finished(lab, "x") | {"checkpoints": ...} == golden() | {"checkpoints": ...}


@only_full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_does_not_wait_for_the_step(lab: Lab, tally: Tally, number: signal.Signals) -> None:
    """A step that takes for ever: one second, and something for a busy machine."""
    pid = lab.start(*lab.arguments("run_name=x"), plants=[("quick",), planted("take_for_ever", 12)])
    wait_for_steps(lab.at("x"), 16)
    time.sleep(0.5)
    os.kill(pid, number)
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(pid, number)
    ended = lab.ended(pid)
    assert ended.code == 128 + number and "Traceback" not in ended.err and time.monotonic() - began < 3, ended.err
    newest = newest_valid(lab.at("x") / "checkpoints", pytest.fail)
    assert newest is not None and newest[0].name == "step-000010"
    tally(kills=1)


def real(folder: Path, *settings: str, program: Sequence[str] = ()) -> subprocess.Popen[str]:
    """The installed command in one process, with nothing planted."""
    command = [*program, str(Path(sys.executable).with_name("est-train")), *TINY, "dataset.files=corpus.jsonl"]
    return subprocess.Popen(
        [*command, "run_name=x", "resume=auto", *settings],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=heed_signals,
    )  # fmt: skip


LONG = ("train.max_steps=4000", "stage.t1=10", "stage.t2=20")


@only_full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_while_libraries_are_imported(tmp_path: Path, tally: Tally, number: signal.Signals) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    process = real(tmp_path)
    time.sleep(1.0)
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch_cpu" not in maps.read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-1].startswith("est-train: stopped: ") and "Traceback" not in err, err
    assert not (tmp_path / "outputs").exists()
    tally(kills=1)


@only_full
def test_nohup_is_heeded(tmp_path: Path, tally: Tally) -> None:
    """What ignores SIGHUP goes on; SIGTERM then saves."""
    write_corpus(tmp_path / "corpus.jsonl")
    process = real(tmp_path, *LONG, program=["nohup"])
    wait_for_steps(tmp_path / "outputs" / "x", 5)
    process.send_signal(signal.SIGHUP)
    wait_for_steps(tmp_path / "outputs" / "x", 40)
    process.send_signal(signal.SIGTERM)
    assert "saved at step" in process.communicate(timeout=60)[1] and process.returncode == 143
    tally(kills=1)


@only_full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_the_launcher_passes_it_on(tmp_path: Path, tally: Tally, number: signal.Signals) -> None:
    write_corpus(tmp_path / "corpus.jsonl")
    launcher = start(tmp_path, *SETTINGS)
    wait_for_steps(tmp_path / "outputs" / "x", 25)
    ranks = workers(launcher.pid)
    began = time.monotonic()
    launcher.send_signal(number)
    err = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 128 + number and time.monotonic() - began < 10, err
    assert err.splitlines()[-1].startswith("est-train: stopped: outputs/x: saved at step")
    assert len(ranks) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    tally(kills=1)


@only_full
@pytest.mark.parametrize(("stream", "code"), [("stdout", 128 + signal.SIGPIPE), ("stderr", 0)])
def test_a_reader_that_leaves(lab: Lab, golden: Golden, stream: str, code: int) -> None:
    """`est-train | head -1`: the run is trained and recorded all the same, and no traceback is shown."""
    (lab.folder / "corpus.jsonl").symlink_to(lab.corpus)
    process = real(lab.folder, f"dataset.files={lab.corpus}")
    assert process.stdout is not None and process.stderr is not None
    (process.stdout if stream == "stdout" else process.stderr).close()
    told = (process.stderr if stream == "stdout" else process.stdout).read()
    assert process.wait(60) == code and "Traceback" not in told, told
    assert finished(lab, "x") == golden()
