"""TensorBoard, MLflow and trackio, as `tracking.also` names them, the last two through Accelerate's trackers.

Numbers only, under the names that W&B has them by (names.py), and the settings that W&B gets. What these libraries tell
of the machine by themselves (command line, user, hardware) is replaced or switched off. All imports are in the threads.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from est_cli.config.tracking import Also
from est_cli.storage import strict_json
from est_cli.storage.run_dir import RunDir
from est_cli.storage.store import leads_out
from est_cli.tracking.event_files import cut_back
from est_cli.tracking.follow import Follower, Mirror
from est_cli.tracking.lost import kind_of
from est_cli.tracking.metrics import RunTail
from est_cli.tracking.names import NAMES, named
from est_cli.tracking.records import Record

MARKS = "tracked-{}.json"
"""In the run's folder: what a tracker that forgets nothing was told so far."""


@dataclass(frozen=True)
class Followed:
    """The run that the trackers are told of."""

    root: Path
    name: str
    project: str
    step: int
    """After which it goes on."""
    settings: Mapping[str, Any]
    store: Path
    """Where MLflow keeps runs, unless MLFLOW_TRACKING_URI says where."""
    names: int = NAMES
    """The rule by which numbers are named (names.py)."""


def followers(chosen: Sequence[Also], run: Followed, warn: Callable[[str], None]) -> list[Follower]:
    """One for each of tracking.also; they begin at once."""
    metrics, layers = RunDir(run.root).metrics, RunDir(run.root).layers
    kinds: dict[Also, Callable[[Followed], Mirror]] = {
        Also.tensorboard: _TensorBoard,
        Also.mlflow: _Mlflow,
        Also.trackio: _Trackio,
    }
    return [Follower(kinds[which](run), RunTail(metrics, layers), warn) for which in dict.fromkeys(chosen)]


def numbers_of(record: Record, names: int = NAMES) -> dict[str, float]:
    """What of a record is a number, by its name in trackers; without the step, which is the axis.

    Tokens stand in those of training steps only: once for each step.
    """
    axes = ("step",) if "loss" in record else ("step", "tokens")
    known = {key: value for key, value in record.items() if key not in axes}
    return {name: value for name, value in named(known, names).items() if type(value) in (int, float)}


class _TensorBoard:
    """Event files in outputs/NAME/tensorboard/; on resume they are cut back to the checkpoint and go on.

    Written with tensorboardX itself: Accelerate's tracker makes an event of each number and hands it from process to
    process, at many times the cost.
    """

    name = Also.tensorboard.value

    def __init__(self, run: Followed) -> None:
        self._run, self._first = run, 0
        self._writer: Any = None

    def start(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import text

        folder = self._run.root / "tensorboard"
        if leads_out(folder, self._run.root):
            raise PermissionError(f"{folder} is a link")
        folder.mkdir(exist_ok=True)
        self._first = cut_back(folder, self._run.step)
        # Of two starts in one second the names differ.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{self._first}")
        self._write(self._first, session_log=SessionLog(status=SessionLog.START))  # of what is on show, forget the rest
        if self._first == 0:
            lines = "\n".join(f"    {key}: {value}" for key, value in sorted(self._run.settings.items()))
            self._write(0, summary=text("settings", lines))

    def log(self, record: Record) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        if record["step"] >= self._first:
            numbers = numbers_of(record, self._run.names)
            values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
            self._write(record["step"], summary=Summary(value=values))

    def finish(self, whole: bool) -> None:
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(step=step, wall_time=time.time(), **what))
        self._writer.flush()


class _Marked(ABC):
    """What a tracker was told that cannot take anything back: a mark is set before a record is sent."""

    name: str

    def __init__(self, run: Followed) -> None:
        self.run = run
        self._path = run.root / MARKS.format(self.name)
        self.mark: dict[str, Any] = {"id": None, "step": 0, "kinds": []}

    def start(self) -> None:
        if self._path.is_file():
            self.mark |= strict_json.read_file(self._path)
        self.open()
        self._keep()

    def log(self, record: Record) -> None:
        step, kind = record["step"], kind_of(record)
        if step < self.mark["step"] or (step == self.mark["step"] and kind in self.mark["kinds"]):
            return
        kinds = self.mark["kinds"] if step == self.mark["step"] else []
        self.mark |= {"step": step, "kinds": [*kinds, kind]}
        self._keep()
        self.send(numbers_of(record, self.run.names), step)

    @abstractmethod
    def open(self) -> None:
        """Open the tracker's run, that of the mark where there is one."""

    @abstractmethod
    def send(self, numbers: dict[str, float], step: int) -> None:
        """Tell it."""

    def _keep(self) -> None:
        """No power cut is reckoned with: it is written for each record, and a mirror may lose one."""
        tmp = self._path.with_name(f".tmp-{self._path.name}-{os.getpid()}")
        tmp.write_bytes(strict_json.write_object(self.mark))
        tmp.replace(self._path)


class _Mlflow(_Marked):
    """A run of MLflow, at MLFLOW_TRACKING_URI or in a database beside the runs."""

    name = Also.mlflow.value

    def open(self) -> None:
        import mlflow
        from accelerate.tracking import MLflowTracker

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{self.run.store.absolute()}")
        # By itself it tells the path of the program and the name of the user.
        tags = {"mlflow.source.name": "est-train", "mlflow.source.type": "JOB", "mlflow.user": "est"}
        self._tracker = MLflowTracker(self.run.project, run_id=self.mark["id"], run_name=self.run.name, tags=tags)
        self._tracker.start()
        if self.mark["id"] is None:
            self._tracker.store_init_configuration(dict(self.run.settings))
        self.mark["id"] = self._tracker.active_run.info.run_id

    def send(self, numbers: dict[str, float], step: int) -> None:
        self._tracker.log(numbers, step=step)

    def finish(self, whole: bool) -> None:
        import mlflow

        mlflow.end_run("FINISHED" if whole else "KILLED")


class _Trackio(_Marked):
    """A run of trackio, in its own folder (TRACKIO_DIR)."""

    name = Also.trackio.value

    def open(self) -> None:
        from accelerate.tracking import TrackioTracker

        options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False, "resume": "allow"}
        self._tracker = TrackioTracker(self.run.project, name=self.run.name, **options)
        self._tracker.start()
        if self.mark["id"] is None:
            self._tracker.store_init_configuration(dict(self.run.settings))
        self.mark["id"] = self.run.name

    def send(self, numbers: dict[str, float], step: int) -> None:
        self._tracker.log(numbers, step=step)

    def finish(self, whole: bool) -> None:
        self._tracker.finish()
