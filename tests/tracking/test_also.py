"""Other trackers: what they hold is what metrics.jsonl holds, number by number, and they harm nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from est_cli.config.tracking import Also
from est_cli.tracking import Ending, Followed, Tracker, follow, followers
from est_cli.tracking.also import numbers_of
from est_cli.tracking.event_files import cut_back, events
from est_cli.tracking.follow import Follower
from est_cli.tracking.metrics import MetricsFile, RunTail, read_metrics
from est_cli.tracking.records import Record
from tests.lab.made_runs import records

Told = list[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.01)


def followed(root: Path, step: int = 0) -> Followed:
    return Followed(root, "x", "est", step, {"seed": 1, "optim.lr": 0.5}, root / "mlflow.db")


def written(root: Path, upto: int, after: int = 0) -> MetricsFile:
    """metrics.jsonl of the steps (`after`, `upto`] of a run, at the end of what is there."""
    file = MetricsFile(root / "metrics.jsonl")
    file.truncate_after(after)
    for record in records("three_stage", 40, 0.0, 10, 1):
        if after < record["step"] <= upto:
            file.append(record)
    return file


def tail_of(root: Path) -> RunTail:
    return RunTail(root / "metrics.jsonl", root / "layers.jsonl")


def mirrored(root: Path, which: Also = Also.tensorboard, step: int = 0, whole: bool = True) -> Told:
    told: Told = []
    for one in followers([which], followed(root, step), told.append):
        one.close(whole)
    return told


def wanted(root: Path) -> dict[tuple[str, int], list[np.float32]]:
    """Every number of metrics.jsonl, as TensorBoard holds numbers."""
    found: dict[tuple[str, int], list[np.float32]] = {}
    for record in read_metrics(root / "metrics.jsonl"):
        for name, value in numbers_of(record).items():
            found.setdefault((name, record["step"]), []).append(np.float32(value))
    return found


def shown(root: Path) -> dict[tuple[str, int], list[np.float32]]:
    """Every number in the event files."""
    found: dict[tuple[str, int], list[np.float32]] = {}
    for path in sorted((root / "tensorboard").glob("events*")):
        for _, event in events(path):
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault((value.tag, event.step), []).append(np.float32(value.simple_value))
    return found


def test_tensorboard_holds_every_number_once(tmp_path: Path) -> None:
    written(tmp_path, 40)
    assert mirrored(tmp_path) == []
    assert shown(tmp_path) == wanted(tmp_path)
    assert all(len(values) == 1 for values in shown(tmp_path).values())
    names = {name for name, _ in shown(tmp_path)}
    assert {"train/loss", "val/loss", "flops/used", "est/loss_after", "perf/step_s", "tokens"} <= names
    assert "step" not in names and "val/val_loss" not in names


def test_the_layers_health_is_there_too(tmp_path: Path) -> None:
    written(tmp_path, 40)
    health = {"step": 20, "tokens": 640, "stage": 2, "activation_rms": [0.5, 2.0], "trained_heads": [[1.0], [0.0]]}
    MetricsFile(tmp_path / "layers.jsonl").append(health)
    assert mirrored(tmp_path) == []
    layers = {("layers/activation_rms/00", 20): [np.float32(0.5)], ("layers/activation_rms/01", 20): [np.float32(2.0)]}
    of_health = {key: values for key, values in shown(tmp_path).items() if key[0].startswith("layers/")}
    assert of_health == layers
    assert len(shown(tmp_path)[("train/loss", 20)]) == 1


def test_records_are_mirrored_while_they_come(tmp_path: Path) -> None:
    (one,) = followers([Also.tensorboard], followed(tmp_path), print)
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for record in records("three_stage", 4, 0.0, 2, 1):
        file.append(record)
        time.sleep(0.02)
    one.close(True)
    assert shown(tmp_path) == wanted(tmp_path)


@pytest.mark.parametrize("torn", [0, 1, 7, 11, 12, 13, 40, 200])
def test_a_run_that_goes_back_to_its_checkpoint_shows_no_point_twice(tmp_path: Path, torn: int) -> None:
    """Killed after step 33, its file torn; goes on from 30, is killed again at 36 and goes on from 30 once more."""
    written(tmp_path, 33)
    mirrored(tmp_path, whole=False)
    (file,) = (tmp_path / "tensorboard").iterdir()
    os.truncate(file, file.stat().st_size - torn)
    for upto in (36, 40):
        written(tmp_path, upto, after=30)
        assert mirrored(tmp_path, step=30) == []
        assert shown(tmp_path) == wanted(tmp_path)
    assert max(step for _, step in shown(tmp_path)) == 40


def test_what_was_lost_before_the_checkpoint_is_written_again(tmp_path: Path) -> None:
    """The events of a killed process may end long before its records."""
    written(tmp_path, 12)
    mirrored(tmp_path, whole=False)
    written(tmp_path, 40, after=12)
    assert cut_back(tmp_path / "tensorboard", 30) == 12
    mirrored(tmp_path, step=30)
    assert shown(tmp_path) == wanted(tmp_path)


def test_a_tracker_that_was_chosen_late_gets_everything(tmp_path: Path) -> None:
    written(tmp_path, 40)
    mirrored(tmp_path, step=35)
    assert shown(tmp_path) == wanted(tmp_path)


def test_a_live_tensorboard_forgets_what_lies_behind_the_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, 33)
    mirrored(tmp_path, whole=False)
    written(tmp_path, 40, after=30)
    mirrored(tmp_path, step=30)
    *_, newest = sorted((tmp_path / "tensorboard").iterdir())
    starts = [event.step for _, event in events(newest) if event.HasField("session_log")]
    assert starts == [31]


def test_a_folder_that_leads_elsewhere_is_left_alone(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    (other / "events.out.tfevents.1.x").write_bytes(b"theirs")
    (run / "tensorboard").symlink_to(other)
    written(run, 4)
    assert mirrored(run) == ["tensorboard: failed (PermissionError) and is off; metrics.jsonl goes on"]
    assert [path.read_bytes() for path in other.iterdir()] == [b"theirs"]


class Bad:
    """Fails, or never comes back, where it is told to."""

    name = "bad"

    def __init__(self, where: str, how: Callable[[], Any]) -> None:
        self.where, self.how = where, how

    def _at(self, where: str) -> None:
        if where == self.where:
            self.how()

    def start(self) -> None:
        self._at("start")

    def log(self, record: Record) -> None:
        self._at("log")

    def finish(self, whole: bool) -> None:
        self._at("finish")


def broken() -> None:
    raise RuntimeError("CANARY secret")


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_one_that_fails_is_off_and_told_without_its_words(tmp_path: Path, where: str) -> None:
    told: Told = []
    written(tmp_path, 4)
    Follower(Bad(where, broken), tail_of(tmp_path), told.append).close(True)
    assert told == ["bad: failed (RuntimeError) and is off; metrics.jsonl goes on"]


def test_several_that_hang_are_waited_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that takes its machine back gives a run half a minute in all."""
    monkeypatch.setattr(follow, "FINISH_TIMEOUT_S", 1.0)
    told: Told = []
    forever = threading.Event()
    hanging = [Follower(Bad("start", forever.wait), tail_of(tmp_path), told.append) for _ in range(4)]
    begin = time.monotonic()
    Tracker(None, None, also=hanging).close(Ending())
    assert time.monotonic() - begin < 2
    assert len(told) == 4
    forever.set()


@pytest.mark.parametrize("where", ["start", "log", "finish"])
def test_one_that_hangs_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(follow, "FINISH_TIMEOUT_S", 0.1)
    told: Told = []
    forever = threading.Event()
    written(tmp_path, 4)
    one = Follower(Bad(where, forever.wait), tail_of(tmp_path), told.append)
    begin = time.monotonic()
    one.close(False)
    one.close(False)
    assert time.monotonic() - begin < 5
    assert told == ["bad: not finished after 0.1 s and left alone; metrics.jsonl is whole"]
    forever.set()


def test_mlflow_holds_every_number_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(follow, "FINISH_TIMEOUT_S", 300.0)  # a new database takes its time
    written(tmp_path, 33)
    assert mirrored(tmp_path, Also.mlflow, whole=False) == []
    written(tmp_path, 40, after=30)
    assert mirrored(tmp_path, Also.mlflow, step=30) == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs(["1"])
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "1"
    assert str(tmp_path) not in json.dumps(run.data.tags) and run.data.tags["mlflow.user"] == "est"
    found: dict[tuple[str, int], list[float]] = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault((name, metric.step), []).append(metric.value)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert found == {(key, r["step"]): [value] for r in records for key, value in numbers_of(r).items()}


def test_trackio_holds_every_number_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    from trackio import sqlite_storage, utils

    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    written(tmp_path, 33)
    assert mirrored(tmp_path, Also.trackio, whole=False) == []
    written(tmp_path, 40, after=30)
    assert mirrored(tmp_path, Also.trackio, step=30) == []
    found: dict[tuple[str, int], list[float]] = {}
    for entry in sqlite_storage.SQLiteStorage.get_logs("est", "x"):
        for name, value in entry.items():
            if name not in ("step", "timestamp"):
                found.setdefault((name, entry["step"]), []).append(value)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert found == {(key, r["step"]): [value] for r in records for key, value in numbers_of(r).items()}
