"""A6: est-eval, est-analyze and est-report killed: the same command gives the same, and nothing is left over."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.faults.victims import copied
from tests.lab.glue_folder import make_glue
from tests.lab.lab import QUICK, Lab, Plant

pytestmark = pytest.mark.row("A6")

APART = {"seconds", "made", "data_dir"}
"""Keys of what need not be the same."""


@dataclass(frozen=True)
class Tool:
    """A command line that writes into outputs/OUT."""

    command: str
    arguments: Callable[[Lab], list[str]]
    out: str
    file: str
    """What is in it in the end."""
    points: tuple[Plant, ...]
    """Where it is killed, one after the other."""


def run_of(lab: Lab) -> Path:
    """A finished run: the one that `shared` has made."""
    return (lab.folder / "data").resolve().parent / "outputs" / "golden-0"


def glue(lab: Lab) -> list[str]:
    make_glue(lab.folder / "glue", 4, 3, ["sst2"])
    folder = f"eval.data_dir={lab.folder / 'glue'}"
    return [
        *(f"checkpoint={run_of(lab)}", "task=sst2", folder, "eval.epochs=1", "eval.seeds=[0,1]", "eval.max_length=32"),
        *("tracking.wandb=off", "run_name=e"),
    ]


def perplexity(lab: Lab) -> list[str]:
    text = [f"eval.files=[{lab.corpus}]", "eval.max_length=32", "tracking.wandb=off", "run_name=e"]
    return [f"checkpoint={run_of(lab)}", "task=perplexity", *text]


def flatness(lab: Lab) -> list[str]:
    text = ["dataset=text", f"dataset.files=[{lab.corpus}]", "dataset.validation_fraction=0.3", "analyze.seq_len=32"]
    small = ["analyze.tokens=64", "analyze.points=3", "analyze.directions=1"]
    return [f"checkpoint={run_of(lab)}", "analysis=flatness", *text, *small]


def report(lab: Lab) -> list[str]:
    return [str(run_of(lab)), "--out", "outputs/page"]


ANALYSIS = "est_cli.analysis.run_analysis"
TOOLS = {
    "GLUE": Tool(
        *("eval", glue, "e", "results.json"),
        tuple(("at_fault_point", f"replace results.{kind}") for kind in ("json", "csv", "md")),
    ),
    "perplexity": Tool("eval", perplexity, "e", "zero_shot.json", (("at_fault_point", "replace zero_shot.json"),)),
    "analyze": Tool(
        *("analyze", flatness, "analyze-golden-0-flatness", "analysis.json"),
        (("at", f"{ANALYSIS}.fingerprint", 1, "before"), ("at_fault_point", "replace analysis.json")),
    ),
    "report": Tool("report", report, "page", "report.json", (("at", "est_cli.reporting.report.page", 1, "before"),)),
}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if key not in APART}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def found_by(lab: Lab, tool: Tool) -> Any:
    """What the command finds when nothing interrupts it; all that it has written stands in one folder, and is whole."""
    ended = lab.tool(tool.command, *tool.arguments(lab))
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    assert [path.name for path in (lab.folder / "outputs").iterdir()] == [tool.out]
    folder = lab.folder / "outputs" / tool.out
    assert [path.name for path in folder.glob(".*") if path.name != ".lock"] == []
    return timeless(json.loads((folder / tool.file).read_bytes()))


def expected(lab: Lab, name: str) -> Any:
    """The same of a lab of its own, once for all tests."""
    if name not in EXPECTED:
        other = Lab(lab.server, lab.folder / "undisturbed", lab.corpus)
        other.folder.mkdir()
        (other.folder / "data").symlink_to((lab.folder / "data").resolve())
        EXPECTED[name] = found_by(other, TOOLS[name])
    return EXPECTED[name]


EXPECTED: dict[str, Any] = {}


@pytest.mark.parametrize("name", either(list(TOOLS), ["perplexity", "analyze"]))
def test_killed_where_it_writes(lab: Lab, tally: Tally, name: str) -> None:
    tool = TOOLS[name]
    for plant in tool.points:
        ended = lab.tool(tool.command, *tool.arguments(lab), plants=[(*plant, "SIGKILL")])
        assert ended.code == -signal.SIGKILL, (plant, ended.err)
        tally(kills=1)
    assert found_by(lab, tool) == expected(lab, name)


@only_full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("name", TOOLS)
def test_killed_at_random(lab: Lab, tally: Tally, name: str, number: int) -> None:
    """est-report may have been killed within the moment in which it writes: then it refuses its half-made page."""
    tool, rng, begin = TOOLS[name], random.Random(f"{name} {number}"), time.monotonic()
    undisturbed = expected(lab, name)
    whole = time.monotonic() - begin or 2.0
    for stream in ("out.txt", "err.txt"):  # it may be killed before it has any
        (lab.folder / stream).touch()
    for _ in range(6):
        pid = lab.start(*tool.arguments(lab), plants=QUICK, command=tool.command)
        time.sleep(rng.uniform(0, whole))
        os.kill(pid, number)
        ended = lab.ended(pid)
        tally(kills=1)
        assert "Traceback" not in ended.err and ended.code in (-number, 128 + number, 0), ended.err
        if name in ("analyze", "report") and (lab.folder / "outputs" / tool.out / tool.file).exists():
            return  # its numbers are whole, and another one would be made beside them
    assert found_by(lab, tool) == undisturbed


def test_what_a_killed_picture_left_is_removed(stopped: Lab, tmp_path: Path) -> None:
    lab = copied(stopped, tmp_path)
    left = lab.at("x") / "plots" / ".tmp-loss.png-123"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert lab.train("resume=outputs/x").code == 0
    assert not left.exists()
