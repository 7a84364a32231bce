"""What waits for a GPU, as far as a CPU can try it: the session goes on where it stopped, its scripts run small."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gpu_groups
import gpu_kernels
import gpu_session
import gpu_stages
import pytest
import torch
from gpu_session import Step

from est_cli.config.resolve import check
from tests.lab.commands import composed

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs them as they are")


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls gpu_session in a folder of its own; returns its exit code and each step's record."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "count.py").write_text("import sys, json; json.dump({'n': 3}, open(sys.argv[2], 'w')); print('said')")
    (tmp_path / "slow.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    steps = (Step("first", 30, "numbers", "count.py"), Step("late", 2, "too slow", "slow.py", measures=False),
             Step("long", 600, "does not fit", "count.py"))  # fmt: skip
    monkeypatch.setattr(gpu_session, "STEPS", steps)

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["gpu_session.py", *words])
        code = gpu_session.main()
        return code, {path.stem: json.loads(path.read_bytes()) for path in Path("outputs/gpu").glob("*.json")}

    return call


@pytest.mark.slow
def test_a_session_goes_on_where_it_stopped(session: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = session()
    assert code == 1 and found.keys() == {"first", "late"}
    assert (found["first"]["exit_code"], found["first"]["measured"], found["first"]["output"]) == (
        0,
        {"n": 3},
        "said\n",
    )
    assert (found["late"]["exit_code"], found["late"]["output"], found["late"]["measured"]) == (124, "begun\n", None)
    assert "long: left for another call (600 s)" in capsys.readouterr().out
    Path("count.py").write_text("raise SystemExit(3)")
    code, found = session("--minutes", "11")
    assert code == 1 and found["first"]["exit_code"] == 0, "what is done is not run again"
    assert found["long"]["exit_code"] == 3
    assert session("--only", "first")[1]["first"]["exit_code"] == 3


def test_the_commands_of_the_session_are_there() -> None:
    root = Path(gpu_session.__file__).parents[1]
    for step in gpu_session.STEPS:
        script, *settings = step.command.split()
        assert script == "-m" or (root / script).is_file()
        if script == "benchmarks/gpu_stages.py":
            check(composed(*settings)[0])


def test_kernels_are_named(tmp_path: Path) -> None:
    found = gpu_kernels.attention(torch.device("cpu"), torch.float32, 4, repeats=1)
    assert found["ms"] > 0 and any("attention" in name for name in found["kernels"])


@pytest.mark.slow
def test_the_strategies_in_a_group_of_one(tmp_path: Path) -> None:
    assert gpu_groups.main(["--device", "cpu", "--no-compile", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert found["fsdp"]["losses"].keys() == {"stage 1", "stage 2", "full"}


@pytest.mark.slow
def test_stages_are_measured_against_their_ideal() -> None:
    sizes = ("model=gpt2_tiny", "model.num_layers=2", "model.vocab_size=512", "train.seq_len=64")
    config = check(composed(*sizes, "train.tokens_per_step=512", "model.hidden_size=64")[0]).config
    found = gpu_stages.report_of(config)["stages"]
    assert [stage["stage"] for stage in found] == [1, 2, 3] and found[-1]["achieved_over_ideal"] == 1.0
    assert found[0]["ideal"] < found[1]["ideal"] < 1 and all(stage["kernels"][0]["ms"] > 0 for stage in found)
