"""est-report as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from est_cli.cli.entry import enter
from est_cli.report import main
from tests.lab.commands import poisoned_path
from tests.lab.made_runs import make_run

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        make_run(Path("outputs/est") / f"seed={seed}", seed=seed, shift=0.1 * (seed + 1))
        make_run(Path("outputs/dense") / f"seed={seed}", "dense", seed)
    assert enter("est-report", main, ["est-report", "outputs/est", "outputs/dense"]) == 0
    out, err = capsys.readouterr()
    first, *missing, last = out.splitlines()
    assert len(missing) == 2 and all(line.startswith("missing   ") and "seed=2" in line for line in missing)
    assert err == "" and first.startswith("three_stage, equal steps: no difference shown at n=2 (")
    page = Path(last.removeprefix("report    "))
    assert page.parent.parent == Path("outputs/reports") and page.name == "report.html"
    monkeypatch.setenv("EST_OUTPUTS", "elsewhere")
    assert enter("est-report", main, ["est-report", "outputs/est"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("report    elsewhere/reports/report-")
    monkeypatch.setenv("EST_OUTPUTS", "~/elsewhere")
    assert enter("est-report", main, ["est-report", "outputs/est"]) == 2
    assert "<title>est and dense</title>" in page.read_text()


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "command line: the following arguments are required: FOLDER; see --help"),
        (["runs", "--outt", "x"], 2, "command line: unrecognized arguments: --outt x; see --help"),
        (["nowhere"], 2, "nowhere: is no folder; give the folders of runs, or folders that hold runs"),
        (["empty"], 2, "empty: holds no run (a folder with a config.yaml) and no sweep of runs"),
        (["runs", "--out", "runs"], 2, "--out: runs is there already and is never overwritten; choose another folder"),
        (["damaged"], 6, "damaged/metrics.jsonl: line 1 is damaged; each line should be one JSON object with a `step`"),
        (["runs", "--out", "/dev/null/x"], 6, "/dev/null"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make_run(Path("runs/a"))
    damaged = make_run(Path("damaged")) / "metrics.jsonl"
    damaged.write_text("{\n" + damaged.read_text())
    assert enter("est-report", main, ["est-report", *args]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"est-report: error: {told}") and err.count("\n") == 1


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{poisoned_path(tmp_path / 'poison')}{os.pathsep}{ROOT}"}
    called = [sys.executable, "-m", "est_cli.report", "--help"]
    began = time.monotonic()
    ended = subprocess.run(called, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "") and time.monotonic() - began < 2
    assert "est-report outputs/A outputs/B" in ended.stdout and "dense twin" in ended.stdout
