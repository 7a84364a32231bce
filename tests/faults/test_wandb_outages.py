"""I: W&B that refuses, hangs, lies or breaks: the run trains the same, its own record is whole, little time is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from est_cli.tracking import read_metrics
from est_cli.tracking.names import named
from tests.faults.bad_disk import small_disk
from tests.faults.bad_wandb import TIMES, answering, failing_run, saying, timed
from tests.faults.conftest import Tally
from tests.faults.size import either, only_full
from tests.faults.test_full_disk import expected, result
from tests.lab import wandb_file
from tests.lab.lab import Ended, Lab
from tests.training.test_start import SHORT, STOP_AT_5

pytestmark = pytest.mark.row("I")

Golden = Callable[..., dict[str, Any]]

START_S, END_S = 2.0, 20.0
"""Training waits for nothing; at the end 5 s for a server and 5 s for W&B, and something for a machine that is busy
with this suite while wandb and its process start."""

KEY = "a" * 40
SERVERS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "refused": lambda: nullcontext("http://127.0.0.1:1"),
    "no such name": lambda: nullcontext("http://nowhere.invalid"),
    "no address": lambda: nullcontext("http://"),
    "silent": lambda: saying(None),
    "silent once something is sent": lambda: answering(200, holds=True),
    "closes": lambda: saying(b""),
    "noise": lambda: saying(b"\x16\x03\x01\x00 no HTTP\r\n\r\n" * 10),
    "500": lambda: answering(500, b"broken"),
    "502": lambda: answering(502),
    "403": lambda: answering(403, b'{"errors": [{"message": "permission denied"}]}'),
    "401": lambda: answering(401),
    "404": lambda: answering(404, b"<html></html>"),
    "429": lambda: answering(429, headers={"Retry-After": "3600"}),
    "an empty answer": lambda: answering(200),
    "an odd answer": lambda: answering(200, b'{"data": null}'),
    "a page": lambda: answering(200, b"<html>log in here</html>"),
    "no JSON": lambda: answering(200, b"{" * 1000),
    "round in circles": lambda: answering(302, headers={"Location": "/again"}),
}


@pytest.fixture
def environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of a user who has logged in, and whose home is in the lab."""
    (lab.folder / "home").mkdir()
    home = str(lab.folder / "home")
    return {"WANDB_API_KEY": KEY, "HOME": home, "NETRC": f"{home}/netrc", "WANDB_CACHE_DIR": home}


def trained(lab: Lab, mode: str, environment: dict[str, str], *plants: tuple[Any, ...]) -> Ended:
    arguments = lab.arguments("run_name=x", "resume=auto", *SHORT, f"tracking.wandb={mode}")
    return lab.ended(lab.start(*arguments, plants=[("quick",), timed(), *plants], environment=environment))


def check(lab: Lab, ended: Ended, golden: Golden) -> list[str]:
    """The run is whole and like one without W&B; returns the lines about it."""
    assert ended.code == 0 and "Traceback" not in ended.err + ended.out, ended.err
    assert result_without_wandb(lab.at("x")) == expected(golden, *SHORT)
    steps = [record["step"] for record in read_metrics(lab.at("x") / "metrics.jsonl") if "loss" in record]
    assert steps == list(range(1, 7))
    seconds = json.loads((lab.folder / TIMES).read_text())
    assert seconds["__init__"] < START_S and seconds.get("finish", 0.0) < END_S, seconds
    assert KEY not in ended.err + ended.out and "canary" not in ended.err + ended.out
    told = [line for line in ended.err.splitlines() if line.startswith("W&B: ")]
    assert len(told) <= 2 and len(ended.err.splitlines()) < 40, "its own process may panic in some ten lines"
    return told


def result_without_wandb(run: Path) -> dict[str, Any]:
    shutil.rmtree(run / "wandb", ignore_errors=True)
    return result(run)


@pytest.mark.parametrize("case", either(list(SERVERS), ["refused"]))
def test_a_server_that_is_none(lab: Lab, golden: Golden, environment: dict[str, str], tally: Tally, case: str) -> None:
    with SERVERS[case]() as address:
        ended = trained(lab, "online", environment | {"WANDB_BASE_URL": address})
    assert check(lab, ended, golden), "it is told that W&B is not what was asked for"
    tally(inputs=1)


@pytest.mark.parametrize("mode", either(["online", "auto", "offline"], ["auto"]))
def test_without_a_key(lab: Lab, golden: Golden, environment: dict[str, str], tally: Tally, mode: str) -> None:
    told = check(lab, trained(lab, mode, environment | {"WANDB_API_KEY": ""}), golden)
    assert len(told) == int(mode == "online")
    tally(inputs=1)


BROKEN = {
    "the first row": failing_run(log=1),
    "a row in the middle": failing_run(log=5),
    "the last row": failing_run(log=8),
    "the end hangs": failing_run(finish="hangs"),
    "the end fails": failing_run(finish="fails"),
    "the beginning fails": failing_run(init="fails"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_library_that_breaks(lab: Lab, golden: Golden, environment: dict[str, str], tally: Tally, case: str) -> None:
    assert len(check(lab, trained(lab, "offline", environment, BROKEN[case]), golden)) == 1
    tally(inputs=1)


@only_full
@pytest.mark.parametrize("size", [4096, 65536])
def test_no_room_for_its_files(lab: Lab, golden: Golden, environment: dict[str, str], tally: Tally, size: int) -> None:
    assert lab.tiny("x", *SHORT, plants=[STOP_AT_5]).code == 143
    with small_disk(lab.at("x") / "wandb", size):
        ended = trained(lab, "offline", environment)
        assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    check(lab, ended, golden)
    tally(inputs=1)


@only_full
@pytest.mark.parametrize("signum", ["SIGTERM", "SIGKILL"])
def test_steps_that_come_twice(
    lab: Lab, golden: Golden, environment: dict[str, str], tally: Tally, signum: str
) -> None:
    """Of several rows of a step the last counts: then W&B has what the record has."""
    plant = ("at_step", "est_cli.training.train.train_step", 4, "after", signum)
    assert trained(lab, "offline", environment, plant).code in (143, -9)
    ended = trained(lab, "offline", environment)
    assert ended.code == 0, ended.err
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted((lab.at("x") / "wandb").glob("offline-run-*/run-*.wandb")):
        for row in wandb_file.history(path):
            rows[row["step"]] = {key: row[key] for key in row if not key.startswith("_") and "." not in key}
    kept: dict[int, dict[str, Any]] = {}
    for record in read_metrics(lab.at("x") / "metrics.jsonl"):
        kept.setdefault(record["step"], {}).update(named(record))
    assert rows.keys() <= kept.keys() and 6 in rows
    assert {step: without_times(row) for step, row in rows.items()} == {
        step: without_times(kept[step]) for step in rows
    }
    check(lab, ended, golden)
    tally(kills=1)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("perf/")}
