"""benchmarks/compare.py on its smallest shape: what it reports is complete and right, and nothing it starts stays."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import compare
import pytest
from contenders import nanogpt, rounds
from contenders.rounds import Measured
from measure import CASES
from results import rivals, stages

pytestmark = pytest.mark.slow

STUB = """
import os, sys, time
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
assert os.path.exists(os.path.join("data", flags["dataset"], "train.bin"))
assert os.path.exists(os.path.join("data", flags["dataset"], "meta.pkl"))
assert (flags["block_size"], flags["batch_size"], flags["gradient_accumulation_steps"]) == ("32", "2", "2")
assert (flags["n_layer"], flags["n_head"], flags["n_embd"], flags["bias"]) == ("2", "4", "64", "True")
assert (flags["device"], flags["dtype"], flags["compile"]) == ("cpu", "float32", "False")
open("pids", "a").write(f"{os.getpid()} ")
print("step 0: train loss 9.9, val loss 9.9")
for number in range(int(flags["max_iters"]) + 1):
    MISHAP
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    print(f"iter {number}: loss {number}.5000, time {10 * number + 10:.2f}ms, mfu -100.00%")
"""
CONTENDERS = ["ours-dense", "ours-stage1", "hf", "trainer", "nanogpt"]
SMALL = ["--shape", "tiny", "--rounds", "2", "--steps", "2", "--warm-up", "1"]


def script(folder: Path, mishap: str = "pass") -> str:
    path = folder / "train.py"
    path.write_text(STUB.replace("MISHAP", mishap), "utf-8")
    return str(path)


def run(folder: Path, only: list[str], *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code of compare.py and what it wrote."""
    patch = pytest.MonkeyPatch()
    files = ["--json", str(folder / "it.json"), "--png", str(folder / "it.png")]
    patch.setattr(sys, "argv", ["compare.py", *SMALL, "--only", *only, *files, *words])
    try:
        code = compare.main()
    finally:
        patch.undo()
    return code, json.loads((folder / "it.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compare")
    code, found = run(folder, CONTENDERS, "--no-gates", "--nanogpt", script(folder))
    assert code == 0 and found["dead"] == {}
    assert (folder / "it.png").read_bytes().startswith(b"\x89PNG")
    return found


@pytest.mark.long
def test_every_contender_is_reported_in_full(report: dict[str, Any]) -> None:
    assert list(report["contenders"]) == CONTENDERS
    for name, of in report["contenders"].items():
        assert len(of["seconds"]) == 2 and min(of["seconds"]) > 0, name
        assert 0 < of["low"] <= of["tokens_per_s"] <= of["high"], name
        assert 0 < of["startup_s"] < 60 and of["peak_memory_gb"] > 0 and of["mfu"] is None, name
        assert of["environment"]["device"] == "cpu" and of["environment"]["threads"] == 1, name
        assert of["environment"]["torch"] == report["environment"]["torch"], name
    assert report["environment"]["commit"] == compare.environment(compare.torch.device("cpu"))["commit"]
    assert report["environment"]["clock"] == "CPU time"


@pytest.mark.long
def test_all_start_from_the_same_weights_and_tokens(report: dict[str, Any]) -> None:
    losses = {name: of["first_loss"] for name, of in report["contenders"].items()}
    assert losses["ours-dense"] == pytest.approx(losses["hf"], rel=1e-5)
    assert losses["trainer"] == pytest.approx(losses["hf"], rel=1e-5)
    assert report["contenders"]["hf"]["last_loss"] != losses["hf"]


@pytest.mark.long
def test_ratios_are_those_of_the_seconds(report: dict[str, Any]) -> None:
    seconds = {name: of["seconds"] for name, of in report["contenders"].items()}
    pairs = [hf / ours for hf, ours in zip(seconds["hf"], seconds["ours-dense"], strict=True)]
    found = {of["name"]: of for of in report["dense_against"]}
    assert list(found) == ["hf", "trainer", "nanogpt"]
    assert found["hf"]["ratio"] == pytest.approx(sum(pairs) / 2)
    (stage,) = report["stages"]
    layer, head = 12 * 64**2 + 2 * 32 * 64, 64 * 512  # products per token: projections, attention over 32; LM head
    assert stage["name"] == "ours-stage1"
    assert stage["ideal"] == pytest.approx((layer / 2 + head) / (2 * layer + head))  # half of one of the two layers


@pytest.mark.long
def test_a_nanogpt_script_is_clocked_by_its_lines(report: dict[str, Any]) -> None:
    of = report["contenders"]["nanogpt"]
    assert of["first_loss"] == 0.5
    assert of["last_loss"] == 3.5  # iteration 0, one to warm up, two that count
    assert min(of["seconds"]) == pytest.approx(0.02, rel=0.1)  # not the 0.01 that its lines add each time


def test_wall_clock_is_what_the_lines_say(tmp_path: Path) -> None:
    job = compare.replace(compare.job_of(compare.SHAPES["tiny"], str(tmp_path), 2), script=script(tmp_path))
    for name in ("train.bin", "meta.pkl"):
        (tmp_path / name).touch()
    found = list(nanogpt.iterations(job, 4))
    assert [it.loss for it in found] == [0.5, 1.5, 2.5, 3.5]
    assert found[3].clock_s - found[1].clock_s == pytest.approx(0.03 + 0.04)


@pytest.mark.long
def test_one_that_dies_is_named_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dies = script(tmp_path, "if number == 2: sys.exit('no luck')")
    code, found = run(tmp_path, ["ours-stage2", "nanogpt"], "--nanogpt", dies, "--sequential")
    assert code == 1
    assert list(found["contenders"]) == ["ours-stage2"]
    assert (
        len(found["contenders"]["ours-stage2"]["seconds"]) == len(found["contenders"]["ours-stage2"]["starts_s"]) == 2
    )
    assert list(found["dead"]) == ["nanogpt"]
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("compare.py:"))
    assert line.startswith("compare.py: nanogpt ended with 1: RuntimeError") and "ended with 1;" in line


@pytest.mark.long
def test_one_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    hangs = script(tmp_path, "time.sleep(600)")
    code, found = run(tmp_path, ["nanogpt"], "--nanogpt", hangs, "--limit-s", "8")
    assert code == 1 and "-9" in found["dead"]["nanogpt"]
    (pid,) = (tmp_path / "pids").read_text("utf-8").split()
    deadline = time.monotonic() + 5
    while running(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(int(pid))


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_gates() -> None:
    slower, same = Measured([1.0, 1.01, 0.99, 1.0]), Measured([0.98, 1.02, 1.0, 0.97])
    fast = Measured([0.9, 0.91, 0.89, 0.9])
    (a, b, c) = rivals({"ours-dense": slower, "hf": same, "trainer": fast, "litgpt": fast}, {"hf", "trainer"})
    assert (a.passed, b.passed, c.passed) == (True, False, None)
    measured = {"ours-dense": Measured([1.0] * 3), "ours-stage1": Measured([0.36] * 3)}
    measured["ours-stage3"] = Measured([1.1] * 3)
    first, third = stages(CASES["cpu"][0], measured)
    assert first.passed and first.ideal == pytest.approx(0.35, abs=0.01) and third.passed is None
    measured["ours-stage1"] = Measured([0.4] * 3)
    assert stages(CASES["cpu"][0], measured)[0].passed is False


def test_every_second_round_reverses_the_order() -> None:
    orders = list(rounds.orders(["a", "b", "c", "d"], 6))
    assert all(orders[i + 1] == orders[i][::-1] for i in (0, 2, 4))
    assert len({tuple(order) for order in orders}) > 2
