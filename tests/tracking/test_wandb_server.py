"""What arrives at a server: a stand-in, which speaks enough of W&B's protocol, and a run in a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from est_cli.tracking import read_metrics
from est_cli.tracking.names import named
from tests.lab.sink_process import command_of, track
from tests.lab.wandb_server import Arrived, WandbServer, wandb_server

pytestmark = [pytest.mark.slow, pytest.mark.processes]

KEY = "a" * 40


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as found:
        yield found


def environment(server: WandbServer) -> dict[str, str]:
    return {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}


def rows_of(run: Arrived) -> dict[int, dict[str, Any]]:
    """By step, without what W&B adds, tables and pictures."""
    return {
        row["_step"]: {key: value for key, value in row.items() if key[0] != "_" and not isinstance(value, dict)}
        for row in run.rows
    }


def recorded(run_dir: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
        if record.get("event") != "sample":
            found.setdefault(record["step"], {}).update(named(record))
    return found


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_all_of_a_run_arrives_and_nothing_else(tmp_path: Path, server: WandbServer) -> None:
    names = {"tags": ["x"], "group": "g", "notes": "n", "system": True, "log_model": True}
    model = tmp_path / "work" / "run" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    (model.parent / "loss.png").write_bytes(PNG)
    run_dir, told, _ = track(
        tmp_path, {"tracking": names}, "--CANARY-argv", MY="CANARY-env", **environment(server)
    )  # fmt: skip
    run = server.runs["abcd1234"]
    assert told["mode"] == "online" and rows_of(run) == recorded(run_dir)
    assert told["page"].startswith(f"{server.url}/") and told["page"].endswith("/est/runs/abcd1234")
    assert {key: run.told[key] for key in ("displayName", "project", "groupName", "jobType", "tags", "notes")} == {
        "displayName": "a run", "project": "est", "groupName": "g", "jobType": "train", "tags": ["x"], "notes": "n",
    }  # fmt: skip
    assert run.exit_code == 0 and run.summary["final_val_loss"] == 3.0
    losses = [row["val/loss"] for row in run.rows if "val/loss" in row]
    assert run.summary["val/loss"] == {"min": min(losses), "last": losses[-1]}
    assert run.console == [line for line in run.console if "run       run reads <path>, token=<secret>" in line]
    assert [alert["title"] for alert in server.alerts][-1] == "What looks wrong"
    assert server.files["artifact/a1/model.safetensors"] == b"weights"
    assert any(name.startswith("abcd1234/media/images/plots/loss") for name in server.files)
    sent = b"\n".join([*server.raw, *server.files.values()])
    assert [word for word in (b"CANARY", str(tmp_path).encode(), KEY.encode()) if word in sent] == []


@pytest.mark.long
def test_a_run_that_goes_on_adds_its_rows(tmp_path: Path, server: WandbServer) -> None:
    run_dir, _, _ = track(tmp_path, {"until": 15, "stopped": "preempted"}, **environment(server))
    run = server.runs["abcd1234"]
    assert run.preempting and run.exit_code == 1 and max(rows_of(run)) == 15
    server.alerts.clear()
    track(tmp_path, {"first_step": 15}, **environment(server))
    assert rows_of(run) == recorded(run_dir) and len(run.rows) == 40
    assert [alert["title"] for alert in server.alerts] == ["Stage 3 from step 20", "What looks wrong"]


@pytest.mark.long
def test_what_was_recorded_offline_arrives_with_the_rest(tmp_path: Path, server: WandbServer) -> None:
    """A process that found no server, then one that does."""
    nowhere = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:1"}
    run_dir, told, _ = track(tmp_path, {"until": 20, "stopped": True}, **nowhere)
    assert told["mode"] == "offline"
    track(tmp_path, {"first_step": 20}, **environment(server))
    assert rows_of(server.runs["abcd1234"]) == recorded(run_dir)
    assert len([*run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb.synced")]) == 1, "wandb sync passes over it"


def test_a_server_that_answers_late_gets_the_run_from_its_first_row(tmp_path: Path, server: WandbServer) -> None:
    server.open = False
    go_on = tmp_path / "go on"
    asked = {"tracking": {"wandb": "online", "timeout_s": 1.0}, "wait_for": str(go_on), "retry_s": 0.5}
    run_dir, command, how = command_of(tmp_path, asked, **environment(server))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as process:
        until(lambda: bool([*run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb")]))
        server.open = True
        until(lambda: bool([*run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb.synced")]))
        go_on.touch()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out.splitlines()[-1])["mode"] == "online"
    assert rows_of(server.runs["abcd1234"]) == recorded(run_dir) and server.runs["abcd1234"].exit_code == 0
    lines = err.splitlines()
    assert len(lines) == 2 and "recorded offline and sent once it answers" in lines[0], lines
    assert lines[1] == "W&B: the server answers, and has the run from its first row on"


@pytest.mark.long
def test_a_server_that_falls_silent_costs_what_was_allowed_and_leaves_no_process(
    tmp_path: Path, server: WandbServer
) -> None:
    go_on = tmp_path / "go on"
    asked = {"tracking": {"wandb": "online", "timeout_s": 5.0}, "wait_for": str(go_on)}
    run_dir, command, how = command_of(tmp_path, asked, **environment(server))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as process:
        until(lambda: "abcd1234" in server.runs)
        server.silent_s = 60.0
        go_on.touch()
        begin = time.monotonic()
        out, err = process.communicate(timeout=45)  # to the end of what W&B's process would hold
    assert process.returncode == 0 and time.monotonic() - begin < 30
    assert len(recorded(run_dir)) == 40 and json.loads(out.splitlines()[-1])["finish_s"] < 15
    lines = err.splitlines()
    assert len(lines) == 2 and lines[0] == "W&B: the last rows are on their way, for 5 s at most", lines
    assert lines[1].endswith("s and left alone; metrics.jsonl is complete")


def test_a_stop_on_the_page_is_a_signal(tmp_path: Path, server: WandbServer) -> None:
    server.stop = True
    asked = {"wait_for": str(tmp_path / "never"), "poll_s": 0.5}
    _, command, how = command_of(tmp_path, asked, **environment(server))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how) as process:
        _, err = process.communicate(timeout=90)
    assert process.returncode == -15 and "W&B: the run is stopped on its page" in err, err


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
"""A picture of one pixel."""
